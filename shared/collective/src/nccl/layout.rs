//! Who holds which nodes of a sum: NCCL's receives must know what comes.

use std::collections::BTreeSet;

use perennial_plan::tree::Node;

use super::Reduction;
use crate::message::{Reader, are_disjoint_nodes};

/// What all members bring to one sum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub slots: u32,
    /// Elements of the vector.
    pub len: usize,
    /// Each member's nodes that are not empty, in ascending order.
    pub nodes: Vec<Vec<Node>>,
}

/// What one member says about that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Offer {
    pub reduction: Reduction,
    /// Elements in one transfer, at most.
    pub chunk: usize,
    pub slots: u32,
    pub len: usize,
    pub nodes: Vec<Node>,
}

// === impl Layout ===

impl Layout {
    pub fn world_size(&self) -> usize {
        self.nodes.len()
    }

    /// The first node of all, at whose place the tree's sum comes to be; none: all slots are empty.
    pub fn first(&self) -> Option<Node> {
        self.nodes.iter().flatten().min().copied()
    }

    /// Puts the offers of all members together; the error is whose is wrong, and why.
    pub fn agree(own: &Offer, offers: &[Vec<u8>]) -> Result<Self, (usize, String)> {
        let mut all = BTreeSet::new();
        let mut nodes = Vec::with_capacity(offers.len());
        for (rank, bytes) in offers.iter().enumerate() {
            let offer = Offer::decode(bytes).map_err(|reason| (rank, reason))?;
            let same = |offer: &Offer| (offer.reduction, offer.chunk, offer.slots, offer.len);
            if same(&offer) != same(own) {
                let [theirs, ours] = [same(&offer), same(own)];
                return Err((rank, format!("it sums {theirs:?}, this member {ours:?}")));
            }
            let before = all.len();
            all.extend(offer.nodes.iter().copied());
            let disjoint = all.len() == before + offer.nodes.len();
            if !disjoint || !are_disjoint_nodes(own.slots, &all) {
                return Err((
                    rank,
                    "it sums slots that another member sums too".to_owned(),
                ));
            }
            nodes.push(offer.nodes);
        }
        Ok(Self {
            slots: own.slots,
            len: own.len,
            nodes,
        })
    }
}

// === impl Offer ===

impl Offer {
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend((self.reduction as u32).to_le_bytes());
        bytes.extend((self.chunk as u64).to_le_bytes());
        bytes.extend(self.slots.to_le_bytes());
        bytes.extend((self.len as u64).to_le_bytes());
        bytes.extend((self.nodes.len() as u32).to_le_bytes());
        for node in &self.nodes {
            bytes.extend(node.start.to_le_bytes());
            bytes.extend(node.end.to_le_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Result<Self, String> {
        let mut reader = Reader(bytes);
        let reduction = Reduction::decode(reader.u32()?)?;
        let chunk = reader.u64()? as usize;
        let slots = reader.u32()?;
        let len = reader.u64()? as usize;
        let count = reader.u32()?;
        let nodes = reader.nodes(count, slots)?;
        reader.end()?;
        Ok(Self {
            reduction,
            chunk,
            slots,
            len,
            nodes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offer(nodes: &[(u32, u32)]) -> Offer {
        let nodes = nodes.iter();
        Offer {
            reduction: Reduction::Exact,
            chunk: 4,
            slots: 5,
            len: 7,
            nodes: nodes.map(|&(start, end)| Node { start, end }).collect(),
        }
    }

    fn agree(offers: &[Offer]) -> Result<Layout, (usize, String)> {
        let encoded: Vec<Vec<u8>> = offers.iter().map(Offer::encode).collect();
        Layout::agree(&offers[0], &encoded)
    }

    #[test]
    fn members_agree_on_who_holds_what() {
        let layout = agree(&[offer(&[(4, 5)]), offer(&[]), offer(&[(0, 2), (2, 3)])]).unwrap();
        assert_eq!(layout.world_size(), 3);
        assert_eq!(layout.first(), Some(Node { start: 0, end: 2 }));
        assert_eq!(agree(&[offer(&[])]).unwrap().first(), None);
    }

    #[test]
    fn a_member_that_sums_something_else_is_named() {
        let blamed = |offers: &[Offer], reason: &str| {
            let (rank, found) = agree(offers).unwrap_err();
            assert!(found.contains(reason), "{found}");
            rank
        };
        let ours = offer(&[(0, 4)]);
        let overlapping = [ours.clone(), offer(&[]), offer(&[(2, 4)])];
        assert_eq!(blamed(&overlapping, "another member sums too"), 2);
        let fast = Offer {
            reduction: Reduction::Fast,
            ..offer(&[])
        };
        assert_eq!(blamed(&[ours.clone(), fast], "Fast"), 1);
        let longer = Offer {
            len: 8,
            ..offer(&[])
        };
        assert_eq!(blamed(&[ours.clone(), longer], "8"), 1);
        assert_eq!(blamed(&[ours, offer(&[(1, 3)])], "not in the tree"), 1);
    }

    #[test]
    fn what_is_cut_short_or_too_long_is_refused() {
        let bytes = offer(&[(0, 4)]).encode();
        for cut in 0..bytes.len() {
            assert!(Offer::decode(&bytes[..cut]).is_err());
        }
        assert!(Offer::decode(&[&bytes[..], &[0]].concat()).is_err());
        assert_eq!(Offer::decode(&bytes), Ok(offer(&[(0, 4)])));
    }
}
