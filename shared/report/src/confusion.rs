//! Confusion matrices: counts with a row for each true class and a column for each predicted one.

use crate::ReportError;

/// Counts each pair of true and predicted label, both below `classes`.
pub fn confusion_matrix(
    truth: &[u32],
    predicted: &[u32],
    classes: usize,
) -> Result<Vec<Vec<u64>>, ReportError> {
    if truth.len() != predicted.len() {
        return Err(ReportError::Lengths {
            truth: truth.len(),
            predicted: predicted.len(),
        });
    }
    let mut counts = vec![vec![0; classes]; classes];
    for (&row, &column) in truth.iter().zip(predicted) {
        for label in [row, column] {
            if label as usize >= classes {
                return Err(ReportError::Label { label, classes });
            }
        }
        counts[row as usize][column as usize] += 1;
    }
    Ok(counts)
}

/// A true class and the class it was taken for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ConfusedPair {
    pub truth: usize,
    pub predicted: usize,
    pub count: u64,
    /// `count` as a share (0..1) of all samples of the true class.
    pub share: f64,
}

/// The pairs that were confused at all, the most frequent first.
pub fn most_confused(confusion: &[Vec<u64>]) -> Vec<ConfusedPair> {
    let mut pairs = Vec::new();
    for (truth, row) in confusion.iter().enumerate() {
        let support: u64 = row.iter().sum();
        for (predicted, &count) in row.iter().enumerate() {
            if predicted != truth && count > 0 {
                let share = count as f64 / support as f64;
                pairs.push(ConfusedPair {
                    truth,
                    predicted,
                    count,
                    share,
                });
            }
        }
    }
    pairs.sort_by(|a, b| b.count.cmp(&a.count).then(b.share.total_cmp(&a.share)));
    pairs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_the_truth() {
        let counts = confusion_matrix(&[0, 0, 2], &[0, 1, 2], 3).unwrap();
        assert_eq!(counts, [[1, 1, 0], [0, 0, 0], [0, 0, 1]]);
    }

    #[test]
    fn labels_that_do_not_fit_are_refused_by_name() {
        let label = confusion_matrix(&[0, 3], &[0, 0], 3).unwrap_err();
        assert_eq!(label.to_string(), "label `3` is outside the 3 classes");
        let lengths = confusion_matrix(&[0], &[], 1).unwrap_err();
        assert_eq!(lengths.to_string(), "1 true labels but 0 predicted ones");
    }

    #[test]
    fn the_most_frequent_confusion_comes_first_and_the_diagonal_never() {
        let pairs = most_confused(&[vec![9, 1, 2], vec![0, 5, 0], vec![2, 0, 2]]);
        let found: Vec<_> = pairs
            .iter()
            .map(|p| (p.truth, p.predicted, p.count))
            .collect();
        assert_eq!(found, [(2, 0, 2), (0, 2, 2), (0, 1, 1)]);
        assert_eq!(pairs[0].share, 0.5);
    }
}
