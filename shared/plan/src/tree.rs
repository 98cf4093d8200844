//! The fixed binary tree over slots by which everything is summed.
//!
//! The tree depends on the number of slots alone, so the bits of a sum do not depend on who computed
//! which slot. A node covers a contiguous range of slots; a range longer than one is split at the
//! largest power of two below its length.

use std::collections::BTreeMap;
use std::ops::Range;

/// A node of the tree: the slots `start..end` that it sums.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Node {
    pub start: u32,
    pub end: u32,
}

// === impl Node ===

impl Node {
    /// The root of the tree over `slots` slots.
    pub fn root(slots: u32) -> Self {
        Self {
            start: 0,
            end: slots,
        }
    }

    /// The two children, or none for a single slot.
    pub fn children(self) -> Option<(Node, Node)> {
        let length = self.end - self.start;
        if length < 2 {
            return None;
        }
        let middle = self.start + length.next_power_of_two() / 2;
        Some((
            Node {
                start: self.start,
                end: middle,
            },
            Node {
                start: middle,
                end: self.end,
            },
        ))
    }

    /// The maximal nodes that lie inside `owned`, in ascending order: what the owner of these slots
    /// can sum without anybody else.
    pub fn maximal_within(self, owned: &Range<u32>) -> Vec<Node> {
        if self.start >= owned.end || self.end <= owned.start {
            return Vec::new();
        }
        if owned.start <= self.start && self.end <= owned.end {
            return vec![self];
        }
        let (left, right) = self
            .children()
            .expect("a single slot is inside or outside of a range");
        let mut nodes = left.maximal_within(owned);
        nodes.extend(right.maximal_within(owned));
        nodes
    }
}

/// Sums the subtree of `node` from what `parts` holds: the value of the node itself, or of nodes
/// below it. A missing node is an empty slot and contributes nothing. Parts that were used are taken.
pub fn fold<T>(
    node: Node,
    parts: &mut BTreeMap<Node, T>,
    add: &mut impl FnMut(T, T) -> T,
) -> Option<T> {
    if let Some(value) = parts.remove(&node) {
        return Some(value);
    }
    let (left, right) = node.children()?;
    match (fold(left, parts, add), fold(right, parts, add)) {
        (Some(left), Some(right)) => Some(add(left, right)),
        (left, right) => left.or(right),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(slots: u32, owners: &[Range<u32>], values: &[Option<f32>]) -> Option<f32> {
        let mut parts = BTreeMap::new();
        for owned in owners {
            for node in Node::root(slots).maximal_within(owned) {
                let mut leaves: BTreeMap<Node, f32> = (node.start..node.end)
                    .filter_map(|slot| {
                        Some((
                            Node {
                                start: slot,
                                end: slot + 1,
                            },
                            values[slot as usize]?,
                        ))
                    })
                    .collect();
                if let Some(value) = fold(node, &mut leaves, &mut |a, b| a + b) {
                    parts.insert(node, value);
                }
            }
        }
        fold(Node::root(slots), &mut parts, &mut |a, b| a + b)
    }

    #[test]
    fn the_bits_of_a_sum_do_not_depend_on_who_holds_which_slot() {
        for slots in 1..=13u32 {
            let values: Vec<Option<f32>> = (0..slots)
                .map(|slot| (slot % 5 != 3).then(|| 0.1 + (slot as f32).sin() * 1e3))
                .collect();
            let alone = sum(slots, std::slice::from_ref(&(0..slots)), &values);
            for first in 0..=slots {
                for second in first..=slots {
                    let split = sum(slots, &[0..first, first..second, second..slots], &values);
                    assert_eq!(alone.map(f32::to_bits), split.map(f32::to_bits));
                }
            }
        }
    }

    #[test]
    fn nobody_at_work_sums_to_nothing() {
        assert_eq!(sum(4, &[0..2, 2..4], &[None; 4]), None);
    }
}
