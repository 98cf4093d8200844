//! The sums that one member can finish alone.

use std::collections::BTreeMap;
use std::ops::Range;

use perennial_plan::tree::Node;

use crate::element::{Element, add};
use crate::error::CollectiveError;
use crate::slot_tree::SlotTree;

/// Sums the slots of one member up to the maximal nodes of the tree inside them. Siblings are merged
/// as soon as both are there, so slots that arrive in order take O(log slots) vectors of memory. The
/// result does not depend on the order of arrival.
#[derive(Debug)]
pub struct SlotSum<T> {
    tree: SlotTree<Vec<T>>,
    len: Option<usize>,
}

// === impl SlotSum ===

impl<T: Element> SlotSum<T> {
    /// For the member that owns the slots `owned` of `slots`.
    pub fn new(slots: u32, owned: Range<u32>) -> Self {
        Self {
            tree: SlotTree::new(slots, owned),
            len: None,
        }
    }

    /// Adds what a slot computed; `None` for an empty slot, which contributes nothing.
    pub fn add(&mut self, slot: u32, value: Option<Vec<T>>) -> Result<(), CollectiveError> {
        let len = value.as_ref().map(Vec::len);
        self.join(slot, len, |sibling| merge(sibling, value))
    }

    /// Adds the `len` numbers that a slot computed: `parts` where their ranges say, and zero elsewhere. Where the sum
    /// of its sibling waits they are added to it, and no vector is made.
    pub fn add_parts(
        &mut self,
        slot: u32,
        len: usize,
        parts: impl IntoIterator<Item = (Range<usize>, Vec<T>)>,
    ) -> Result<(), CollectiveError> {
        self.join(slot, Some(len), |sibling| {
            let mut sum = sibling.unwrap_or_else(|| vec![T::default(); len]);
            for (range, values) in parts {
                add(&mut sum[range], &values);
            }
            Some(sum)
        })
    }

    /// Puts into the tree what `with` makes of the sum of the slot's sibling, where that waits.
    fn join(
        &mut self,
        slot: u32,
        len: Option<usize>,
        with: impl FnOnce(Option<Vec<T>>) -> Option<Vec<T>>,
    ) -> Result<(), CollectiveError> {
        if let Some(len) = len {
            let expected = *self.len.get_or_insert(len);
            if len != expected {
                return Err(CollectiveError::Input(format!(
                    "slot `{slot}` has `{len}` elements where others have `{expected}`"
                )));
            }
        }
        let climb = self.tree.take(slot)?;
        let sum = with(climb.first);
        let rest = climb.rest.into_iter();
        let sum = rest.fold(sum, |sum, sibling| merge(sum, Some(sibling)));
        self.tree.put(climb.node, sum);
        Ok(())
    }

    /// The maximal nodes inside the owned slots, without those whose slots are all empty.
    pub fn finish(self) -> Result<BTreeMap<Node, Vec<T>>, CollectiveError> {
        self.tree.finish()
    }
}

fn merge<T: Element>(left: Option<Vec<T>>, right: Option<Vec<T>>) -> Option<Vec<T>> {
    match (left, right) {
        (Some(mut left), Some(right)) => {
            add(&mut left, &right);
            Some(left)
        }
        (left, right) => left.or(right),
    }
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
            let (mut whole, mut parts) =
                (SlotSum::new(slots, 0..slots), SlotSum::new(slots, 0..slots));
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
            let mut forward = SlotSum::new(slots, 0..slots);
            let mut backward = SlotSum::new(slots, 0..slots);
            let mut odd_first = SlotSum::new(slots, 0..slots);
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
        let mut sum = SlotSum::new(1024, 0..1024);
        for slot in 0..1024 {
            sum.add(slot, Some(vec![1.0f32])).unwrap();
            assert!(sum.tree.held() <= 11);
        }
        let finished = sum.finish().unwrap();
        assert_eq!(finished[&Node::root(1024)], vec![1024.0]);
    }

    #[test]
    fn a_slot_that_is_missing_foreign_or_added_twice_is_an_error() {
        let mut sum = SlotSum::new(4, 0..2);
        sum.add(1, Some(vec![1.0f64])).unwrap();
        assert!(sum.add(1, None).is_err());
        assert!(sum.add(2, None).is_err());
        assert!(sum.add(0, Some(vec![1.0, 2.0])).is_err());
        assert_eq!(sum.finish(), Err(CollectiveError::MissingSlot(0)));
    }
}
