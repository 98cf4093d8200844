//! The account of a job: what each applied step was, and one hash over all of it.
//!
//! A record's leaf holds what is a function of the job alone, so that the root after a step is the same
//! however many workers ran and whatever happened to them.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Cursor;

/// A step that was applied, as all members saw it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StepRecord {
    pub epoch: u32,
    pub step: u32,
    /// The generation that applied it: its slots and their members stand in the log.
    pub generation: u64,
    /// Samples in the batch.
    pub samples: u64,
    #[serde(with = "exact")]
    pub loss_sum: f64,
    /// Samples whose label was the best guess, or among the best five.
    pub top1: u64,
    pub top5: u64,
    #[serde(with = "exact")]
    pub learning_rate: f64,
    /// Of the mean gradient, before clipping.
    #[serde(with = "exact")]
    pub grad_norm: f64,
    /// What the loss was multiplied by, where the job scales it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss_scale: Option<f64>,
    /// The gradient was not finite, so nothing but the loss scale has changed.
    #[serde(default, skip_serializing_if = "is_false")]
    pub skipped: bool,
    /// Of the replica after the step, in hexadecimal.
    #[serde(with = "hexadecimal")]
    pub replica_hash: u64,
    /// Of the slowest member, from step to step.
    pub seconds: f64,
    /// The ranks of the members that reported this hash.
    pub confirmed: Vec<u32>,
}

// === impl StepRecord ===

impl StepRecord {
    /// The step that it is about.
    pub fn cursor(&self) -> Cursor {
        Cursor {
            epoch: self.epoch,
            step: self.step,
        }
    }

    /// What does not depend on who computed it.
    fn leaf(&self) -> Node {
        let mut hash = Sha256::new();
        hash.update([LEAF]);
        hash.update(self.epoch.to_le_bytes());
        hash.update(self.step.to_le_bytes());
        for count in [self.samples, self.top1, self.top5, self.replica_hash] {
            hash.update(count.to_le_bytes());
        }
        for number in [self.loss_sum, self.learning_rate, self.grad_norm] {
            hash.update(number.to_bits().to_le_bytes());
        }
        // The leaf of a job without a scale is what it always was.
        if let Some(scale) = self.loss_scale {
            hash.update(scale.to_bits().to_le_bytes());
            hash.update([u8::from(self.skipped)]);
        }
        hash.finalize().into()
    }
}

type Node = [u8; 32];

const LEAF: u8 = 0;
const INNER: u8 = 1;
const ROOT: u8 = 2;

/// A Merkle tree over the records from the first step on, of which only the roots of its complete
/// subtrees are kept (a Merkle mountain range): a record is added in O(log steps).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Stored", try_from = "Stored")]
pub struct LedgerRoot {
    count: u64,
    /// One for each bit that is set in `count`, the largest subtree first.
    peaks: Vec<Node>,
}

// === impl LedgerRoot ===

impl LedgerRoot {
    /// Records in it: the global step after the last one.
    pub fn count(&self) -> u64 {
        self.count
    }

    pub fn push(&mut self, record: &StepRecord) {
        let mut node = record.leaf();
        for _ in 0..self.count.trailing_ones() {
            let left = self.peaks.pop().expect("a peak for each bit of the count");
            node = inner(&left, &node);
        }
        self.peaks.push(node);
        self.count += 1;
    }

    /// The hash over all records, in hexadecimal.
    pub fn root(&self) -> String {
        let mut hash = Sha256::new();
        hash.update([ROOT]);
        hash.update(self.count.to_le_bytes());
        let mut peaks = self.peaks.iter().rev().copied();
        let mut top = peaks.next().unwrap_or_default();
        for left in peaks {
            top = inner(&left, &top);
        }
        hash.update(top);
        hex(&hash.finalize())
    }
}

fn inner(left: &Node, right: &Node) -> Node {
    let mut hash = Sha256::new();
    hash.update([INNER]);
    hash.update(left);
    hash.update(right);
    hash.finalize().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// As it is written down.
#[derive(Serialize, Deserialize)]
struct Stored {
    count: u64,
    peaks: Vec<String>,
}

impl From<LedgerRoot> for Stored {
    fn from(root: LedgerRoot) -> Self {
        Self {
            count: root.count,
            peaks: root.peaks.iter().map(|peak| hex(peak)).collect(),
        }
    }
}

impl TryFrom<Stored> for LedgerRoot {
    type Error = String;

    fn try_from(stored: Stored) -> Result<Self, String> {
        let peak = |text: &String| {
            let byte = |at: usize| {
                let digits = text.get(2 * at..2 * at + 2)?;
                u8::from_str_radix(digits, 16).ok()
            };
            let mut node = Node::default();
            for (at, place) in node.iter_mut().enumerate() {
                *place = byte(at)?;
            }
            (text.len() == 2 * node.len()).then_some(node)
        };
        let peaks: Option<Vec<Node>> = stored.peaks.iter().map(peak).collect();
        match peaks {
            Some(peaks) if peaks.len() == stored.count.count_ones() as usize => Ok(Self {
                count: stored.count,
                peaks,
            }),
            _ => Err("the peaks of the ledger's tree are not what its count says".to_owned()),
        }
    }
}

fn is_false(value: &bool) -> bool {
    !value
}

/// A number as text that gives the same bits back; JSON readers may round.
mod exact {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &f64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(value)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map_err(|_| D::Error::custom(format!("`{text}` is not a number")))
    }
}

/// A hash as people read it.
mod hexadecimal {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(value: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{value:016x}"))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        u64::from_str_radix(&text, 16)
            .map_err(|_| D::Error::custom(format!("`{text}` is not a hash")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(step: u32) -> StepRecord {
        StepRecord {
            epoch: 0,
            step,
            generation: 1,
            samples: 64,
            loss_sum: 0.1 + f64::from(step),
            top1: 3,
            top5: 9,
            learning_rate: 1e-3,
            grad_norm: 1.0 / 3.0,
            loss_scale: None,
            skipped: false,
            replica_hash: 0x1234,
            seconds: 0.5,
            confirmed: vec![0],
        }
    }

    fn root(records: &[StepRecord]) -> String {
        let mut root = LedgerRoot::default();
        records.iter().for_each(|record| root.push(record));
        root.root()
    }

    #[test]
    fn the_root_tells_every_ledger_from_every_other() {
        let records: Vec<StepRecord> = (0..9).map(record).collect();
        let mut seen: Vec<String> = (0..=9).map(|count| root(&records[..count])).collect();
        for changed in 0..9 {
            let mut other = records.clone();
            other[changed].replica_hash ^= 1;
            seen.push(root(&other));
        }
        let mut scaled = records.clone();
        scaled[4].loss_scale = Some(65536.0);
        seen.push(root(&scaled));
        scaled[4].skipped = true;
        seen.push(root(&scaled));
        let mut swapped = records.clone();
        swapped.swap(3, 4);
        seen.push(root(&swapped));
        let distinct: std::collections::BTreeSet<&String> = seen.iter().collect();
        assert_eq!(distinct.len(), seen.len());
    }

    #[test]
    fn who_computed_a_step_does_not_change_the_root() {
        let other = StepRecord {
            generation: 7,
            seconds: 9.0,
            confirmed: vec![1, 2],
            ..record(0)
        };
        assert_eq!(root(&[record(0)]), root(&[other]));
    }

    #[test]
    fn records_and_roots_come_back_from_json_to_the_bit() {
        let mut tree = LedgerRoot::default();
        for step in 0..11 {
            let record = StepRecord {
                loss_sum: 0.1 + 0.2 * f64::from(step),
                grad_norm: f64::MIN_POSITIVE / 3.0,
                loss_scale: (step > 3).then_some(0.1),
                skipped: step == 5,
                ..record(step)
            };
            let text = serde_json::to_string(&record).unwrap();
            assert_eq!(serde_json::from_str::<StepRecord>(&text).unwrap(), record);
            tree.push(&record);
            let text = serde_json::to_string(&tree).unwrap();
            assert_eq!(serde_json::from_str::<LedgerRoot>(&text).unwrap(), tree);
        }
        assert!(serde_json::from_str::<LedgerRoot>(r#"{"count":3,"peaks":["00"]}"#).is_err());
    }
}
