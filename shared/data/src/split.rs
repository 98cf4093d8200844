//! Which samples train and which validate: scikit-learn's `train_test_split`, index for index.

use perennial_plan::random::Draw;

use crate::error::SplitError;

/// numpy's legacy `RandomState`: the Mersenne Twister MT19937 (Matsumoto and Nishimura, 1998).
#[derive(Debug, Clone)]
pub struct RandomState {
    key: [u32; Self::WORDS],
    next: usize,
}

// === impl RandomState ===

impl RandomState {
    const WORDS: usize = 624;
    const SHIFT: usize = 397;

    /// The state of `numpy.random.RandomState(seed)`.
    pub fn new(seed: u32) -> Self {
        let mut key = [0u32; Self::WORDS];
        key[0] = seed;
        for i in 1..Self::WORDS {
            let previous = key[i - 1];
            key[i] = 1_812_433_253u32
                .wrapping_mul(previous ^ (previous >> 30))
                .wrapping_add(i as u32);
        }
        Self {
            key,
            next: Self::WORDS,
        }
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.next == Self::WORDS {
            self.twist();
        }
        let mut word = self.key[self.next];
        self.next += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for i in 0..Self::WORDS {
            let high = self.key[i] & 0x8000_0000;
            let low = self.key[(i + 1) % Self::WORDS] & 0x7fff_ffff;
            let word = high | low;
            let matrix = if word & 1 == 1 { 0x9908_b0df } else { 0 };
            self.key[i] = self.key[(i + Self::SHIFT) % Self::WORDS] ^ (word >> 1) ^ matrix;
        }
        self.next = 0;
    }

    /// numpy's `shuffle`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            items.swap(i, j);
        }
    }

    /// numpy's `permutation(n)`.
    pub fn permutation(&mut self, n: usize) -> Vec<usize> {
        let mut items: Vec<usize> = (0..n).collect();
        self.shuffle(&mut items);
        items
    }
}

impl Draw for RandomState {
    /// 53 bits of two words.
    fn uniform(&mut self) -> f64 {
        let high = f64::from(self.next_u32() >> 5);
        let low = f64::from(self.next_u32() >> 6);
        (high * f64::from(1 << 26) + low) / (1u64 << 53) as f64
    }

    /// numpy's `interval`: masked rejection; nothing is drawn when there is one choice.
    fn below(&mut self, bound: u64) -> u64 {
        let most = bound - 1;
        if most == 0 {
            return 0;
        }
        let mask = u64::MAX >> most.leading_zeros();
        loop {
            let word = if most <= u64::from(u32::MAX) {
                u64::from(self.next_u32())
            } else {
                u64::from(self.next_u32()) << 32 | u64::from(self.next_u32())
            };
            if word & mask <= most {
                return word & mask;
            }
        }
    }
}

/// The two sides of a split: positions in the list that was split, in scikit-learn's order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split {
    pub train: Vec<usize>,
    pub test: Vec<usize>,
}

/// `train_test_split(range(samples), test_size=test_fraction, random_state=seed)`.
pub fn train_test_split(
    samples: usize,
    test_fraction: f64,
    seed: u32,
) -> Result<Split, SplitError> {
    let test_count = test_count(samples, test_fraction)?;
    let mut test = RandomState::new(seed).permutation(samples);
    let train = test.split_off(test_count);
    Ok(Split { train, test })
}

/// The same with `stratify=labels`: each class keeps its share on both sides.
pub fn stratified_split(
    labels: &[u32],
    test_fraction: f64,
    seed: u32,
) -> Result<Split, SplitError> {
    let test_count = test_count(labels.len(), test_fraction)?;
    let train_count = labels.len() - test_count;
    let classes = labels.iter().max().map_or(0, |most| *most as usize + 1);
    let mut members: Vec<Vec<usize>> = vec![Vec::new(); classes];
    for (position, label) in labels.iter().enumerate() {
        members[*label as usize].push(position);
    }
    members.retain(|members| !members.is_empty());

    for (class, members) in members.iter().enumerate() {
        if members.len() < 2 {
            return Err(SplitError::RareClass {
                class,
                count: members.len(),
            });
        }
    }
    let smaller = train_count.min(test_count);
    if smaller < members.len() {
        return Err(SplitError::SmallSide {
            classes: members.len(),
            side: smaller,
        });
    }

    let mut random = RandomState::new(seed);
    let counts: Vec<usize> = members.iter().map(Vec::len).collect();
    let train_counts = approximate_mode(&counts, train_count, &mut random);
    let rest: Vec<usize> = counts
        .iter()
        .zip(&train_counts)
        .map(|(count, train)| count - train)
        .collect();
    let test_counts = approximate_mode(&rest, test_count, &mut random);

    let (mut train, mut test) = (Vec::new(), Vec::new());
    for (class, members) in members.iter().enumerate() {
        let order = random.permutation(members.len());
        let mut chosen = order.into_iter().map(|position| members[position]);
        train.extend(chosen.by_ref().take(train_counts[class]));
        test.extend(chosen.take(test_counts[class]));
    }
    random.shuffle(&mut train);
    random.shuffle(&mut test);
    Ok(Split { train, test })
}

fn test_count(samples: usize, test_fraction: f64) -> Result<usize, SplitError> {
    let count = (test_fraction * samples as f64).ceil() as usize;
    if count == 0 || count >= samples {
        return Err(SplitError::EmptySide { samples });
    }
    Ok(count)
}

/// scikit-learn's `_approximate_mode`: the most likely numbers of each class among `draws` of `counts`.
fn approximate_mode(counts: &[usize], draws: usize, random: &mut RandomState) -> Vec<usize> {
    let total: usize = counts.iter().sum();
    let expected: Vec<f64> = counts
        .iter()
        .map(|count| *count as f64 / total as f64 * draws as f64)
        .collect();
    let mut floored: Vec<usize> = expected
        .iter()
        .map(|share| share.floor() as usize)
        .collect();
    let mut missing = draws - floored.iter().sum::<usize>();

    let remainders: Vec<f64> = expected.iter().map(|share| share - share.floor()).collect();
    let mut distinct = remainders.clone();
    distinct.sort_by(|a, b| b.total_cmp(a));
    distinct.dedup();
    for value in distinct {
        if missing == 0 {
            break;
        }
        let tied: Vec<usize> = (0..counts.len())
            .filter(|class| remainders[*class] == value)
            .collect();
        let take = tied.len().min(missing);
        for chosen in &random.permutation(tied.len())[..take] {
            floored[tied[*chosen]] += 1;
        }
        missing -= take;
    }
    floored
}
