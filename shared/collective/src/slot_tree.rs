//! The way of one member's slots up the tree.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use perennial_plan::tree::Node;

use crate::error::CollectiveError;

/// The sums of a member's slots, up to the maximal nodes of the tree inside them. It knows which of them are to be
/// added; whoever has it adds them, on the host or on a device.
#[derive(Debug)]
pub(crate) struct SlotTree<V> {
    owned: Range<u32>,
    maximal: Vec<Node>,
    taken: BTreeSet<u32>,
    /// Complete nodes waiting for their sibling; none: all of its slots are empty.
    done: BTreeMap<Node, Option<V>>,
}

/// What to add to the sum of a node.
#[derive(Debug)]
pub(crate) struct Climb<V> {
    /// The sums that wait for it, to be added one after the other; those of empty slots are left out.
    pub siblings: Vec<V>,
    /// The node that is complete then.
    pub node: Node,
}

// === impl SlotTree ===

impl<V> SlotTree<V> {
    /// For the member that owns the slots `owned` of `slots`.
    pub fn new(slots: u32, owned: Range<u32>) -> Self {
        Self {
            maximal: Node::root(slots).maximal_within(&owned),
            owned,
            taken: BTreeSet::new(),
            done: BTreeMap::new(),
        }
    }

    /// Takes out what `slot` is to be added to; the sum is then [put](Self::put) at the node.
    pub fn take(&mut self, slot: u32) -> Result<Climb<V>, CollectiveError> {
        if self.top_of(slot).is_none() {
            let owned = &self.owned;
            return Err(CollectiveError::Input(format!(
                "slot `{slot}` is not among the owned slots `{owned:?}`"
            )));
        }
        if !self.taken.insert(slot) {
            return Err(CollectiveError::Input(format!(
                "slot `{slot}` was added twice"
            )));
        }
        Ok(self.climb(Node {
            start: slot,
            end: slot + 1,
        }))
    }

    /// Puts the sum of a node where [`Self::take`] said; none: all of its slots are empty. Where its sibling has come meanwhile,
    /// the sum comes back and goes on.
    pub fn put(&mut self, node: Node, sum: Option<V>) -> Option<(Climb<V>, Option<V>)> {
        let climb = self.climb(node);
        if climb.node != node {
            return Some((climb, sum));
        }
        self.done.insert(node, sum);
        None
    }

    /// Owned slots that were not taken.
    pub fn missing(&self) -> impl Iterator<Item = u32> {
        (self.owned.clone()).filter(|slot| !self.taken.contains(slot))
    }

    /// Whether nothing more is added to a node's sum here.
    pub fn is_maximal(&self, node: Node) -> bool {
        self.maximal.contains(&node)
    }

    /// Takes out what waits on the way up from `node`.
    fn climb(&mut self, node: Node) -> Climb<V> {
        let mut climb = Climb {
            siblings: Vec::new(),
            node,
        };
        let path = self.top_of(node.start).map(|top| ancestors(top, node));
        for (parent, sibling) in path.into_iter().flatten().rev() {
            let Some(sum) = self.done.remove(&sibling) else {
                break;
            };
            climb.siblings.extend(sum);
            climb.node = parent;
        }
        climb
    }

    /// The maximal nodes inside the owned slots, without those whose slots are all empty.
    pub fn finish(self) -> Result<BTreeMap<Node, V>, CollectiveError> {
        if let Some(missing) = self.missing().next() {
            return Err(CollectiveError::MissingSlot(missing));
        }
        let sums = self.done.into_iter();
        Ok(sums
            .filter_map(|(node, value)| Some((node, value?)))
            .collect())
    }

    /// Sums that are held.
    #[cfg(test)]
    pub fn held(&self) -> usize {
        self.done.len()
    }

    fn top_of(&self, slot: u32) -> Option<Node> {
        let mut maximal = self.maximal.iter().copied();
        maximal.find(|top| covers(*top, slot))
    }
}

fn covers(node: Node, slot: u32) -> bool {
    node.start <= slot && slot < node.end
}

/// The nodes from `top` down to the parent of `lower`, each with the child that does not hold `lower`.
fn ancestors(top: Node, lower: Node) -> Vec<(Node, Node)> {
    let mut path = Vec::new();
    let mut node = top;
    while node != lower
        && let Some((left, right)) = node.children()
    {
        let (next, other) = if covers(left, lower.start) {
            (left, right)
        } else {
            (right, left)
        };
        path.push((node, other));
        node = next;
    }
    path
}
