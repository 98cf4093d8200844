//! The sums that one member can finish alone.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use perennial_plan::tree::Node;

use crate::element::{Element, add};
use crate::error::CollectiveError;
use crate::slot_tree::SlotTree;

/// Sums the slots of one member up to the maximal nodes of the tree inside them. Siblings are merged
/// as soon as both are there, so slots that arrive in order take O(log slots) vectors of memory. The
/// result does not depend on the order of arrival, and threads that add slots do not wait for each other.
#[derive(Debug)]
pub struct SlotSum<T> {
    tree: Mutex<SlotTree<Parts<T>>>,
    len: OnceLock<usize>,
}

/// A vector as it was computed: values where their ranges say, in ascending order, and zero elsewhere. It is made whole when its
/// last sum is, so that nothing is copied or cleared for it.
#[derive(Debug)]
struct Parts<T> {
    len: usize,
    parts: Vec<(Range<usize>, Vec<T>)>,
}

// === impl SlotSum ===

impl<T: Element> SlotSum<T> {
    /// For the member that owns the slots `owned` of `slots`.
    pub fn new(slots: u32, owned: Range<u32>) -> Self {
        Self {
            tree: Mutex::new(SlotTree::new(slots, owned)),
            len: OnceLock::new(),
        }
    }

    /// Adds what a slot computed; `None` for an empty slot, which contributes nothing.
    pub fn add(&self, slot: u32, value: Option<Vec<T>>) -> Result<(), CollectiveError> {
        self.join(slot, value.map(Parts::whole))
    }

    /// Adds the `len` numbers that a slot computed: `parts` where their ranges say, and zero elsewhere.
    pub fn add_parts(
        &self,
        slot: u32,
        len: usize,
        parts: impl IntoIterator<Item = (Range<usize>, Vec<T>)>,
    ) -> Result<(), CollectiveError> {
        let mut parts: Vec<_> = parts.into_iter().collect();
        parts.sort_by_key(|(range, _)| range.start);
        let mut end = 0;
        for (range, values) in &parts {
            if range.start < end || range.end > len || range.len() != values.len() {
                return Err(CollectiveError::Input(format!(
                    "`{}` numbers of slot `{slot}` are no part `{range:?}` of `{len}` after `{end}`",
                    values.len()
                )));
            }
            end = range.end;
        }
        self.join(slot, Some(Parts { len, parts }))
    }

    /// Adds up what a slot computed and what waits for it.
    fn join(&self, slot: u32, value: Option<Parts<T>>) -> Result<(), CollectiveError> {
        if let Some(len) = value.as_ref().map(|value| value.len) {
            let expected = *self.len.get_or_init(|| len);
            if len != expected {
                return Err(CollectiveError::Input(format!(
                    "slot `{slot}` has `{len}` elements where others have `{expected}`"
                )));
            }
        }
        let mut sum = value;
        let mut climb = self.tree().take(slot)?;
        loop {
            let is_last = self.tree().is_maximal(climb.node);
            let count = climb.siblings.len();
            for (index, sibling) in climb.siblings.into_iter().enumerate() {
                let is_last = is_last && index + 1 == count;
                sum = Some(match sum {
                    None => sibling,
                    Some(sum) if is_last => Parts::whole(sum.plus_whole(sibling)),
                    Some(sum) => sum.plus(sibling),
                });
            }
            let Some(met) = self.tree().put(climb.node, sum) else {
                return Ok(());
            };
            (climb, sum) = met;
        }
    }

    /// Owned slots that were not added.
    pub fn missing(&self) -> Vec<u32> {
        self.tree().missing().collect()
    }

    /// The maximal nodes inside the owned slots, without those whose slots are all empty.
    pub fn finish(self) -> Result<BTreeMap<Node, Vec<T>>, CollectiveError> {
        let tree = (self.tree.into_inner()).unwrap_or_else(PoisonError::into_inner);
        let nodes = tree.finish()?.into_iter();
        Ok(nodes.map(|(node, sum)| (node, sum.into_whole())).collect())
    }

    fn tree(&self) -> MutexGuard<'_, SlotTree<Parts<T>>> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Parts ===

impl<T: Element> Parts<T> {
    fn whole(values: Vec<T>) -> Self {
        Self {
            len: values.len(),
            parts: vec![(0..values.len(), values)],
        }
    }

    fn plus(mut self, other: Self) -> Self {
        if self.is_cut_like(&other) {
            for ((_, sum), (_, values)) in self.parts.iter_mut().zip(other.parts) {
                add(sum, &values);
            }
            return self;
        }
        let mut sum = self.into_whole();
        for (range, values) in other.parts {
            add(&mut sum[range], &values);
        }
        Self::whole(sum)
    }

    /// To the bit the values of [`Self::plus`], but that no zero is negative.
    fn plus_whole(self, other: Self) -> Vec<T> {
        if !self.is_cut_like(&other) {
            return self.plus(other).into_whole();
        }
        let mut sum = Vec::with_capacity(self.len);
        for ((range, left), (_, right)) in self.parts.into_iter().zip(other.parts) {
            sum.resize(range.start, T::default());
            let values = left.into_iter().zip(right);
            sum.extend(values.map(|(left, right)| plus(plus(T::default(), left), right)));
        }
        sum.resize(self.len, T::default());
        sum
    }

    fn into_whole(self) -> Vec<T> {
        let mut parts = self.parts;
        if let [(range, values)] = parts.as_mut_slice()
            && *range == (0..self.len)
        {
            return std::mem::take(values);
        }
        let mut whole = Vec::with_capacity(self.len);
        for (range, values) in parts {
            whole.resize(range.start, T::default());
            // As a sum with zero, which leaves no zero negative.
            whole.extend(values.into_iter().map(|value| plus(T::default(), value)));
        }
        whole.resize(self.len, T::default());
        whole
    }

    fn is_cut_like(&self, other: &Self) -> bool {
        let ranges = other.parts.iter().map(|(range, _)| range);
        self.len == other.len && self.parts.iter().map(|(range, _)| range).eq(ranges)
    }
}

fn plus<T: Element>(mut left: T, right: T) -> T {
    left += right;
    left
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(slot: u32) -> Option<Vec<f32>> {
        (slot % 4 != 2).then(|| vec![(slot as f32).sin() * 1e3, 0.1 + slot as f32])
    }

    #[test]
    fn in_parts_a_sum_has_the_bits_that_it_has_whole() {
        for slots in 1..=9u32 {
            let (whole, parts) = (SlotSum::new(slots, 0..slots), SlotSum::new(slots, 0..slots));
            // Slots come in pairs from the end, so that siblings wait on either side.
            for slot in (0..slots).rev() {
                let Some(value) = value(slot) else {
                    whole.add(slot, None).unwrap();
                    parts.add(slot, None).unwrap();
                    continue;
                };
                let (len, last) = (value.len() + 1, value.len());
                let pieces: Vec<_> = (value.iter().enumerate().rev())
                    .map(|(at, number)| (at..at + 1, vec![*number]))
                    .collect();
                parts.add_parts(slot, len, pieces).unwrap();
                let mut padded = value;
                padded.insert(last, 0.0);
                whole.add(slot, Some(padded)).unwrap();
            }
            assert_eq!(whole.finish().unwrap(), parts.finish().unwrap());
        }
    }

    #[test]
    fn the_order_of_arrival_does_not_change_the_sum() {
        for slots in 1..=9u32 {
            let forward = SlotSum::new(slots, 0..slots);
            let backward = SlotSum::new(slots, 0..slots);
            let odd_first = SlotSum::new(slots, 0..slots);
            for slot in 0..slots {
                forward.add(slot, value(slot)).unwrap();
                let back = slots - 1 - slot;
                backward.add(back, value(back)).unwrap();
            }
            for slot in (1..slots).step_by(2).chain((0..slots).step_by(2)) {
                odd_first.add(slot, value(slot)).unwrap();
            }
            let forward = forward.finish().unwrap();
            assert_eq!(forward, backward.finish().unwrap());
            assert_eq!(forward, odd_first.finish().unwrap());
        }
    }

    #[test]
    fn slots_in_order_hold_few_vectors_at_a_time() {
        let sum = SlotSum::new(1024, 0..1024);
        for slot in 0..1024 {
            sum.add(slot, Some(vec![1.0f32])).unwrap();
            assert!(sum.tree().held() <= 11);
        }
        let finished = sum.finish().unwrap();
        assert_eq!(finished[&Node::root(1024)], vec![1024.0]);
    }

    #[test]
    fn a_slot_that_is_missing_foreign_or_added_twice_is_an_error() {
        let sum = SlotSum::new(4, 0..2);
        sum.add(1, Some(vec![1.0f64])).unwrap();
        assert!(sum.add(1, None).is_err());
        assert!(sum.add(2, None).is_err());
        assert!(sum.add(0, Some(vec![1.0, 2.0])).is_err());
        assert_eq!(sum.finish(), Err(CollectiveError::MissingSlot(0)));
    }
}
