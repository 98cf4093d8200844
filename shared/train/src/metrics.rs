//! Accuracy as integer counts, which add up exactly in any order.

/// The index of the largest logit, the first where several are; 0 for none.
pub fn argmax(row: &[f32]) -> usize {
    let mut best = 0;
    for (index, logit) in row.iter().enumerate() {
        if *logit > row[best] {
            best = index;
        }
    }
    best
}

/// How many rows of `logits` (`[rows, classes]`) have their label among the `k` largest; with `k` above the
/// number of classes, all with a label that exists. Of equal logits the first counts as larger; a logit
/// that is not a number counts as larger than a label's and is never a hit itself.
pub fn top_k(logits: &[f32], classes: usize, labels: &[u32], k: usize) -> u64 {
    logits
        .chunks_exact(classes)
        .zip(labels)
        .filter(|(row, label)| is_hit(row, **label as usize, k))
        .count() as u64
}

fn is_hit(row: &[f32], label: usize, k: usize) -> bool {
    let Some(own) = row.get(label).copied().filter(|own| !own.is_nan()) else {
        return false;
    };
    let ahead = |(index, logit): &(usize, &f32)| {
        logit.is_nan() || **logit > own || (**logit == own && *index < label)
    };
    row.iter().enumerate().filter(ahead).count() < k
}

/// Running totals of training or evaluation.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Meter {
    pub samples: u64,
    pub loss_sum: f64,
    pub top1: u64,
    /// Hits among the five largest, or among all where there are fewer classes.
    pub top5: u64,
}

// === impl Meter ===

impl Meter {
    /// Counts rows of `logits` (`[rows, classes]`) whose losses sum to `loss_sum`.
    pub fn add(&mut self, logits: &[f32], classes: usize, labels: &[u32], loss_sum: f64) {
        self.samples += labels.len() as u64;
        self.loss_sum += loss_sum;
        self.top1 += top_k(logits, classes, labels, 1);
        self.top5 += top_k(logits, classes, labels, 5);
    }

    pub fn merge(&mut self, other: &Meter) {
        self.samples += other.samples;
        self.loss_sum += other.loss_sum;
        self.top1 += other.top1;
        self.top5 += other.top5;
    }

    /// The mean loss of a sample; none before the first.
    pub fn loss(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.loss_sum / self.samples as f64)
    }

    /// The share of hits at the first place, between 0 and 1; none before the first sample.
    pub fn top1_share(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.top1 as f64 / self.samples as f64)
    }

    /// The share of hits among the first five, between 0 and 1; none before the first sample.
    pub fn top5_share(&self) -> Option<f64> {
        (self.samples > 0).then(|| self.top5 as f64 / self.samples as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_equal_logits_the_first_wins() {
        let row = [1.0, 3.0, 3.0, 3.0];
        assert_eq!(argmax(&row), 1);
        let hits = |label, k| top_k(&row, 4, &[label], k);
        assert_eq!(
            [hits(1, 1), hits(2, 1), hits(2, 2), hits(3, 2), hits(0, 3)],
            [1, 0, 1, 0, 0]
        );
    }

    #[test]
    fn logits_that_are_not_numbers_never_score() {
        let row = [f32::NAN, 1.0, f32::NAN];
        let hits: Vec<u64> = (0..3).map(|label| top_k(&row, 3, &[label], 2)).collect();
        assert_eq!(hits, [0, 0, 0]);
    }

    #[test]
    fn more_places_than_classes_are_all_hits_but_for_labels_that_do_not_exist() {
        assert_eq!(top_k(&[0.1, 0.2, 0.1, 0.2], 2, &[0, 7], 5), 1);
    }

    #[test]
    fn merged_meters_equal_one_meter() {
        let logits = [0.1, 0.9, 0.8, 0.2, 0.4, 0.6];
        let mut whole = Meter::default();
        assert_eq!(whole.loss(), None);
        whole.add(&logits, 2, &[1, 1, 1], 0.75);
        let (mut first, mut second) = (Meter::default(), Meter::default());
        first.add(&logits[..2], 2, &[1], 0.25);
        second.add(&logits[2..], 2, &[1, 1], 0.5);
        first.merge(&second);
        assert_eq!(first, whole);
        assert_eq!(whole.top1_share(), Some(2.0 / 3.0));
        assert_eq!(whole.top5_share(), Some(1.0));
        assert_eq!(whole.loss(), Some(0.25));
    }
}
