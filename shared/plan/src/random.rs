//! Keyed randomness: every draw is a function of a key, never of what was drawn before elsewhere.
//!
//! A [`Stream`] is a SplitMix64 counter generator (Steele, Lea, Flood: "Fast splittable pseudorandom
//! number generators", 2014) started from the mixed words of its key, so two members that need the
//! same number compute it without talking to each other.

/// What a stream of random numbers is for. Streams of different domains never meet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u64)]
pub enum Domain {
    /// The order of the training samples in an epoch: `[epoch]`.
    Order = 1,
    /// Augmentation of one picture: `[epoch, sample]`.
    Augment = 2,
    /// MixUp and CutMix inside a slot: `[step, slot]`.
    Mix = 3,
    /// DropPath of one residual branch: `[step, slot, layer]`.
    DropPath = 4,
    /// First value of a parameter: `[hash of its name]`.
    Init = 5,
    /// Synthetic pictures: `[class, picture]`.
    Synthetic = 6,
    /// Faults that are injected into a store: `[kind of operation, its number]`. Nothing that is trained.
    StoreFaults = 64,
    /// Pauses before another attempt at the store: `[attempt]`. Nothing that is trained.
    Backoff = 65,
    /// Faults that a run is to suffer, and when: `[round]`, and `[round, place]`. Nothing that is trained.
    Chaos = 66,
}

/// A source of uniform randomness. The algorithms that must match another library are written
/// against this trait and tested with that library's generator.
pub trait Draw {
    /// A number in `[0, 1)`.
    fn uniform(&mut self) -> f64;

    /// An integer in `[0, bound)`; `bound` is at least 1.
    fn below(&mut self, bound: u64) -> u64;

    /// A number in `[low, high)`.
    fn uniform_in(&mut self, low: f64, high: f64) -> f64 {
        low + (high - low) * self.uniform()
    }

    /// A standard normal number (Box-Muller, the cosine half).
    fn normal(&mut self) -> f64 {
        let radius = (-2.0 * (1.0 - self.uniform()).ln()).sqrt();
        radius * (std::f64::consts::TAU * self.uniform()).cos()
    }

    /// A Beta(`a`, `b`) number: Jöhnk's method for `a, b <= 1` as in numpy's `RandomState.beta`,
    /// the ratio of two Gamma numbers otherwise.
    fn beta(&mut self, a: f64, b: f64) -> f64 {
        if a <= 1.0 && b <= 1.0 {
            loop {
                let u = self.uniform();
                let v = self.uniform();
                let x = u.powf(1.0 / a);
                let y = v.powf(1.0 / b);
                if x + y <= 1.0 && u + v > 0.0 {
                    if x + y > 0.0 {
                        return x / (x + y);
                    }
                    let log_x = u.ln() / a;
                    let log_y = v.ln() / b;
                    let log_max = log_x.max(log_y);
                    let (log_x, log_y) = (log_x - log_max, log_y - log_max);
                    return (log_x - (log_x.exp() + log_y.exp()).ln()).exp();
                }
            }
        }
        let x = self.gamma(a);
        let y = self.gamma(b);
        x / (x + y)
    }

    /// A Gamma(`shape`, 1) number: Marsaglia and Tsang, "A simple method for generating gamma
    /// variables", 2000, with the boost for shapes under one.
    fn gamma(&mut self, shape: f64) -> f64 {
        if shape < 1.0 {
            let boost = (1.0 - self.uniform()).powf(1.0 / shape);
            return self.gamma(shape + 1.0) * boost;
        }
        let d = shape - 1.0 / 3.0;
        let c = 1.0 / (9.0 * d).sqrt();
        loop {
            let x = self.normal();
            let v = (1.0 + c * x).powi(3);
            if v <= 0.0 {
                continue;
            }
            let u = 1.0 - self.uniform();
            if u.ln() < 0.5 * x * x + d - d * v + d * v.ln() {
                return d * v;
            }
        }
    }
}

/// A stream of random numbers that belongs to one key.
#[derive(Debug, Clone)]
pub struct Stream {
    state: u64,
}

// === impl Stream ===

impl Stream {
    /// The stream of `key` in `domain` under the job's `seed`.
    pub fn new(seed: u64, domain: Domain, key: &[u64]) -> Self {
        let mut state = mix(seed ^ mix(domain as u64));
        for word in key {
            state = mix(state.rotate_left(23) ^ mix(*word));
        }
        Self { state }
    }

    /// The next 64 random bits.
    pub fn next_u64(&mut self) -> u64 {
        let word = mix(self.state);
        self.state = self.state.wrapping_add(GOLDEN);
        word
    }

    /// Fisher-Yates over `items`.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i as u64 + 1) as usize;
            items.swap(i, j);
        }
    }
}

impl Draw for Stream {
    fn uniform(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 / (1u64 << 53) as f64
    }

    /// Lemire's multiply-and-reject: unbiased.
    fn below(&mut self, bound: u64) -> u64 {
        debug_assert!(bound > 0);
        loop {
            let product = u128::from(self.next_u64()) * u128::from(bound);
            let low = product as u64;
            if low >= bound.wrapping_neg() % bound {
                return (product >> 64) as u64;
            }
        }
    }
}

/// FNV-1a over the bytes of `name`: the key of a parameter.
pub fn name_hash(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

/// One SplitMix64 output: the mixed value of `state` advanced by the golden ratio.
pub fn mix(state: u64) -> u64 {
    let z = state.wrapping_add(GOLDEN);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mix_is_splitmix64() {
        // Reference outputs of SplitMix64 seeded with 0.
        assert_eq!(mix(0), 0xe220_a839_7b1d_cdaf);
        assert_eq!(mix(GOLDEN), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn a_stream_depends_on_every_word_of_its_key() {
        let first = |seed, domain, key: &[u64]| Stream::new(seed, domain, key).next_u64();
        let base = first(42, Domain::Augment, &[1, 2]);
        assert_eq!(base, first(42, Domain::Augment, &[1, 2]));
        assert_ne!(base, first(43, Domain::Augment, &[1, 2]));
        assert_ne!(base, first(42, Domain::Mix, &[1, 2]));
        assert_ne!(base, first(42, Domain::Augment, &[2, 1]));
        assert_ne!(base, first(42, Domain::Augment, &[1, 2, 0]));
    }

    #[test]
    fn draws_have_the_moments_of_their_distributions() {
        let mut stream = Stream::new(7, Domain::Mix, &[]);
        let n = 40_000;
        let mean = |draws: &[f64]| draws.iter().sum::<f64>() / draws.len() as f64;
        let uniform: Vec<f64> = (0..n).map(|_| stream.uniform()).collect();
        assert!((mean(&uniform) - 0.5).abs() < 0.01);
        let normal: Vec<f64> = (0..n).map(|_| stream.normal()).collect();
        assert!(mean(&normal).abs() < 0.02);
        let variance = mean(&normal.iter().map(|x| x * x).collect::<Vec<_>>());
        assert!((variance - 1.0).abs() < 0.03);
        let beta: Vec<f64> = (0..n).map(|_| stream.beta(0.4, 0.8)).collect();
        assert!((mean(&beta) - 1.0 / 3.0).abs() < 0.01);
        let beta: Vec<f64> = (0..n).map(|_| stream.beta(2.0, 3.0)).collect();
        assert!((mean(&beta) - 0.4).abs() < 0.01);
        assert!((0..n).all(|_| stream.below(3) < 3));
    }
}
