//! scikit-learn's `classification_report`, to the byte: precision, recall and F1 a class and on average.
//!
//! Averages are summed in NumPy's order (pairwise), so that a value on a rounding boundary falls the same way.

use std::collections::BTreeSet;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

/// Precision, recall and F1, each 0..1 and 0 where undefined, and the number of samples behind them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Scores {
    pub precision: f64,
    pub recall: f64,
    pub f1_score: f64,
    pub support: u64,
}

/// The scores of one class.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassScores {
    pub name: String,
    #[serde(flatten)]
    pub scores: Scores,
}

/// What stands in the line above the averages.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Overall {
    /// The share of right answers: all labels that occur are reported.
    Accuracy(f64),
    /// Scores over the pooled counts of the reported labels: some labels that occur are not among them.
    MicroAvg(Scores),
}

/// The numbers of a classification report.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClassificationReport {
    pub classes: Vec<ClassScores>,
    #[serde(flatten)]
    pub overall: Overall,
    /// The plain mean over classes.
    pub macro_avg: Scores,
    /// The mean over classes, weighted by support.
    pub weighted_avg: Scores,
    /// scikit-learn counts in floats, and prints them so, when not one sample is right.
    #[serde(skip)]
    fractional_support: bool,
}

/// The report over all classes as text, as scikit-learn prints it with `labels=range(len(confusion))`,
/// `target_names=names` and `digits` decimals.
pub fn classification_report(names: &[String], confusion: &[Vec<u64>], digits: usize) -> String {
    ClassificationReport::new(names, confusion).to_text(digits)
}

/// True positives, predictions and samples of a class.
#[derive(Clone, Copy, Default)]
struct Counts {
    right: u64,
    predicted: u64,
    support: u64,
}

// === impl Counts ===

impl Counts {
    fn of(confusion: &[Vec<u64>], label: usize) -> Self {
        Self {
            right: cell(confusion, label, label),
            predicted: (0..confusion.len())
                .map(|row| cell(confusion, row, label))
                .sum(),
            support: confusion.get(label).map_or(0, |row| row.iter().sum()),
        }
    }

    fn scores(self) -> Scores {
        Scores {
            precision: ratio(self.right, self.predicted),
            recall: ratio(self.right, self.support),
            f1_score: harmonic_mean(self),
            support: self.support,
        }
    }
}

// === impl ClassificationReport ===

impl ClassificationReport {
    /// Over all classes of the matrix. A class without a name is called by its number.
    pub fn new(names: &[String], confusion: &[Vec<u64>]) -> Self {
        let labels: Vec<usize> = (0..confusion.len()).collect();
        Self::of_labels(names, confusion, &labels)
    }

    /// Over some classes of the matrix, in the order given. `names` are those of all classes.
    pub fn of_labels(names: &[String], confusion: &[Vec<u64>], labels: &[usize]) -> Self {
        let name = |label: usize| {
            names
                .get(label)
                .cloned()
                .unwrap_or_else(|| label.to_string())
        };
        let counts: Vec<Counts> = labels
            .iter()
            .map(|&label| Counts::of(confusion, label))
            .collect();
        let classes: Vec<ClassScores> = labels
            .iter()
            .zip(&counts)
            .map(|(&label, counts)| ClassScores {
                name: name(label),
                scores: counts.scores(),
            })
            .collect();

        let pooled = counts.iter().fold(Counts::default(), |sum, one| Counts {
            right: sum.right + one.right,
            predicted: sum.predicted + one.predicted,
            support: sum.support + one.support,
        });
        let reported: BTreeSet<usize> = labels.iter().copied().collect();
        let all_occurring_reported = (0..confusion.len()).all(|label| {
            let counts = Counts::of(confusion, label);
            counts.predicted + counts.support == 0 || reported.contains(&label)
        });
        let overall = if all_occurring_reported {
            Overall::Accuracy(ratio(pooled.right, pooled.support))
        } else {
            Overall::MicroAvg(pooled.scores())
        };

        let average = |weight: fn(&Scores) -> f64| {
            let weights: Vec<f64> = classes.iter().map(|class| weight(&class.scores)).collect();
            let total = pairwise_sum(&weights);
            let mean = |value: fn(&Scores) -> f64| {
                let weighted: Vec<f64> = classes
                    .iter()
                    .zip(&weights)
                    .map(|(class, weight)| value(&class.scores) * weight)
                    .collect();
                if total == 0.0 {
                    0.0
                } else {
                    pairwise_sum(&weighted) / total
                }
            };
            Scores {
                precision: mean(|s| s.precision),
                recall: mean(|s| s.recall),
                f1_score: mean(|s| s.f1_score),
                support: pooled.support,
            }
        };
        Self {
            overall,
            macro_avg: average(|_| 1.0),
            weighted_avg: average(|s| s.support as f64),
            fractional_support: (0..confusion.len())
                .all(|label| cell(confusion, label, label) == 0),
            classes,
        }
    }

    /// As scikit-learn prints it, with `digits` decimals.
    pub fn to_text(&self, digits: usize) -> String {
        const LONGEST_HEADING: &str = "weighted avg";
        let longest_name = self
            .classes
            .iter()
            .map(|class| class.name.chars().count())
            .max();
        let width = longest_name
            .unwrap_or(0)
            .max(LONGEST_HEADING.len())
            .max(digits);
        let count = |support: u64| {
            let ending = if self.fractional_support { ".0" } else { "" };
            format!("{support}{ending}")
        };
        let row = |name: &str, scores: &Scores| {
            let Scores {
                precision,
                recall,
                f1_score,
                support,
            } = scores;
            let support = count(*support);
            format!(
                "{name:>width$}  {precision:>9.digits$} {recall:>9.digits$} {f1_score:>9.digits$} {support:>9}\n"
            )
        };

        let mut text = format!(
            "{:>width$}  {:>9} {:>9} {:>9} {:>9}\n\n",
            "", "precision", "recall", "f1-score", "support"
        );
        for class in &self.classes {
            text += &row(&class.name, &class.scores);
        }
        text.push('\n');
        match &self.overall {
            Overall::Accuracy(accuracy) => {
                let support = count(self.macro_avg.support);
                writeln!(
                    text,
                    "{:>width$}  {:>9} {:>9} {accuracy:>9.digits$} {support:>9}",
                    "accuracy", "", ""
                )
                .expect("writing to a string cannot fail");
            }
            Overall::MicroAvg(scores) => text += &row("micro avg", scores),
        }
        text += &row("macro avg", &self.macro_avg);
        text += &row(LONGEST_HEADING, &self.weighted_avg);
        text
    }
}

fn cell(confusion: &[Vec<u64>], row: usize, column: usize) -> u64 {
    confusion
        .get(row)
        .and_then(|row| row.get(column))
        .copied()
        .unwrap_or(0)
}

/// F1 as scikit-learn computes it: from the counts, and not from precision and recall.
fn harmonic_mean(counts: Counts) -> f64 {
    let whole = counts.predicted as f64 + counts.support as f64;
    if whole == 0.0 {
        0.0
    } else {
        2.0 * counts.right as f64 / whole
    }
}

fn ratio(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        0.0
    } else {
        part as f64 / whole as f64
    }
}

/// NumPy's `pairwise_sum`: blocks of up to 128 in eight running sums, halves above.
fn pairwise_sum(values: &[f64]) -> f64 {
    if values.len() < 8 {
        return values.iter().sum();
    }
    if values.len() > 128 {
        let half = values.len() / 2;
        let (low, high) = values.split_at(half - half % 8);
        return pairwise_sum(low) + pairwise_sum(high);
    }
    let blocks = values.chunks_exact(8);
    let rest = blocks.remainder();
    let mut sums = [0.0; 8];
    for block in blocks {
        for (sum, value) in sums.iter_mut().zip(block) {
            *sum += value;
        }
    }
    let [a, b, c, d, e, f, g, h] = sums;
    let blocks = ((a + b) + (c + d)) + ((e + f) + (g + h));
    rest.iter().fold(blocks, |sum, value| sum + value)
}
