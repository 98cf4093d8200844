//! The way of one member's slots up the tree.

use std::collections::BTreeMap;
use std::ops::Range;

use perennial_plan::tree::Node;

use crate::error::CollectiveError;

/// The sums of a member's slots, up to the maximal nodes of the tree inside them. It knows which of them are to be
/// added; whoever has it adds them, on the host or on a device.
#[derive(Debug)]
pub(crate) struct SlotTree<V> {
    owned: Range<u32>,
    maximal: Vec<Node>,
    /// Complete nodes waiting for their sibling; none: all of its slots are empty.
    done: BTreeMap<Node, Option<V>>,
}

/// What to add a slot to.
#[derive(Debug)]
pub(crate) struct Climb<V> {
    /// The sum of the slot's sibling, where that waits and is not empty.
    pub first: Option<V>,
    /// The sums to add to that, one after the other.
    pub rest: Vec<V>,
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
            done: BTreeMap::new(),
        }
    }

    /// Takes out what `slot` is to be added to; the sum is then [put](Self::put) at the node.
    pub fn take(&mut self, slot: u32) -> Result<Climb<V>, CollectiveError> {
        let Some(top) = (self.maximal.iter().copied()).find(|top| covers(*top, slot)) else {
            let owned = &self.owned;
            return Err(CollectiveError::Input(format!(
                "slot `{slot}` is not among the owned slots `{owned:?}`"
            )));
        };
        if self.has(slot) {
            return Err(CollectiveError::Input(format!(
                "slot `{slot}` was added twice"
            )));
        }
        let leaf = Node {
            start: slot,
            end: slot + 1,
        };
        let mut climb = Climb {
            first: None,
            rest: Vec::new(),
            node: leaf,
        };
        for (parent, sibling) in ancestors(top, leaf).into_iter().rev() {
            let Some(sum) = self.done.remove(&sibling) else {
                break;
            };
            match climb.node == leaf {
                true => climb.first = sum,
                false => climb.rest.extend(sum),
            }
            climb.node = parent;
        }
        Ok(climb)
    }

    /// Puts the sum of a node where [`Self::take`] said; none: all of its slots are empty.
    pub fn put(&mut self, node: Node, sum: Option<V>) {
        self.done.insert(node, sum);
    }

    /// The maximal nodes inside the owned slots, without those whose slots are all empty.
    pub fn finish(self) -> Result<BTreeMap<Node, V>, CollectiveError> {
        let mut slots = self.maximal.iter().flat_map(|node| node.start..node.end);
        if let Some(missing) = slots.find(|slot| !self.has(*slot)) {
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

    fn has(&self, slot: u32) -> bool {
        self.done.keys().any(|node| covers(*node, slot))
    }
}

fn covers(node: Node, slot: u32) -> bool {
    node.start <= slot && slot < node.end
}

/// The nodes from `top` down to the parent of `leaf`, each with the child that does not hold `leaf`.
fn ancestors(top: Node, leaf: Node) -> Vec<(Node, Node)> {
    let mut path = Vec::new();
    let mut node = top;
    while let Some((left, right)) = node.children() {
        let (next, other) = if covers(left, leaf.start) {
            (left, right)
        } else {
            (right, left)
        };
        path.push((node, other));
        node = next;
    }
    path
}
