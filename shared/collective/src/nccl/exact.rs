//! The exact sum: grouped sends and receives of what each member has summed, and the tree on the owner's device.
//!
//! As over TCP (`exchange`): each range of the vector goes to its owner, who finishes the tree, then to
//! everybody, in pieces. The order of additions is that of the tree alone, so the bits are those of a CPU.

use std::collections::BTreeMap;
use std::ops::Range;

use perennial_plan::tree::{self, Node};

use super::communicator::Communicator;
use super::device::{DeviceError, DeviceSum, Span};
use super::handle::Fault;
use super::layout::Layout;
use crate::exchange::piece_of;

/// Where the parts of one member's range lie while it finishes the tree.
pub(super) struct Places<'a> {
    /// Own nodes, all of the vector each.
    pub own: &'a BTreeMap<Node, Span>,
    /// All of the vector: where the sum comes to be. The own first node's, where that is the first of all.
    pub result: Span,
    /// For pieces of the other members' nodes.
    pub staging: Span,
}

// === impl Layout ===

impl Layout {
    /// Pieces of each range, the same number for all owners, of at most about `chunk` elements.
    fn pieces(&self, chunk: usize) -> usize {
        let range = self.len.div_ceil(self.world_size());
        range.div_ceil(chunk.max(1)).max(1)
    }

    fn piece(&self, owner: usize, count: usize, index: usize) -> Range<usize> {
        piece_of(self.len, self.world_size(), owner, count, index)
    }

    /// Nodes of other members than `rank`, but for the first of all nodes, which is received where the result is.
    fn staged(&self, rank: usize) -> impl Iterator<Item = (usize, Node)> {
        let first = self.first();
        let members = self.nodes.iter().enumerate();
        members
            .filter(move |(peer, _)| *peer != rank)
            .flat_map(|(peer, nodes)| nodes.iter().map(move |node| (peer, *node)))
            .filter(move |(_, node)| Some(*node) != first)
    }

    /// Elements of staging that the member of rank `rank` needs.
    pub fn staging(&self, rank: usize, chunk: usize) -> usize {
        let count = self.pieces(chunk);
        let longest = (0..count).map(|index| self.piece(rank, count, index).len());
        self.staged(rank).count() * longest.max().unwrap_or(0)
    }
}

/// Sums all members' nodes into `places.result`, at every member.
///
/// # Safety
/// All places are of buffers that live, and that nobody else uses, until the stream is idle; the result is
/// the own first node's place where that is the first of all nodes, and else shares nothing with the others.
pub(super) unsafe fn sum<D: DeviceSum>(
    communicator: &Communicator,
    device: &mut D,
    layout: &Layout,
    rank: usize,
    chunk: usize,
    places: &Places<'_>,
) -> Result<(), Fault> {
    let world_size = layout.world_size();
    // Each begins with another one, so that not all send to the same member first.
    let peers = || (1..world_size).map(move |distance| (rank + distance) % world_size);
    let count = layout.pieces(chunk);
    for index in 0..count {
        let own_piece = layout.piece(rank, count, index);
        let result = places.result.part(&own_piece);
        let mut parts: BTreeMap<Node, Span> = (places.own.iter())
            .map(|(node, span)| (*node, span.part(&own_piece)))
            .collect();
        let mut at = 0;
        for (_, node) in layout.staged(rank) {
            parts.insert(node, places.staging.part(&(at..at + own_piece.len())));
            at += own_piece.len();
        }
        if let Some(first) = layout.first() {
            parts.insert(first, result);
        }

        if world_size > 1 {
            communicator.group(|group| {
                for peer in peers() {
                    let theirs = layout.piece(peer, count, index);
                    for span in places.own.values().filter(|_| !theirs.is_empty()) {
                        // SAFETY: the caller's promise. Of what is sent nothing is changed on this stream
                        // before the group is done: the additions below touch the own piece alone.
                        unsafe { group.send(span.part(&theirs), peer) }?;
                    }
                    let nodes = layout.nodes[peer].iter();
                    for node in nodes.filter(|_| !own_piece.is_empty()) {
                        // SAFETY: the caller's promise; each node has a place of its own.
                        unsafe { group.receive(parts[node], peer) }?;
                    }
                }
                Ok(())
            })?;
        }

        // SAFETY: the caller's promise; all parts lie apart and are as long as the piece.
        unsafe { fold(device, layout.slots, &mut parts) }?;

        if world_size > 1 {
            communicator.group(|group| {
                for peer in peers() {
                    let theirs = places.result.part(&layout.piece(peer, count, index));
                    if !result.is_empty() {
                        // SAFETY: the caller's promise.
                        unsafe { group.send(result, peer) }?;
                    }
                    if !theirs.is_empty() {
                        // SAFETY: the caller's promise. Where the result is an own node's place, this piece of
                        // it was sent by the group above, which the stream has done by then.
                        unsafe { group.receive(theirs, peer) }?;
                    }
                }
                Ok(())
            })?;
        }
    }
    Ok(())
}

/// Puts the additions of the tree over `parts` on the stream. The sum comes to be at the first part's place.
///
/// # Safety
/// The parts are of buffers that live, and that nobody else uses, until the stream is idle; they are as long as
/// each other and share nothing.
pub(super) unsafe fn fold<D: DeviceSum>(
    device: &mut D,
    slots: u32,
    parts: &mut BTreeMap<Node, Span>,
) -> Result<(), DeviceError> {
    let mut put = Ok(());
    tree::fold(Node::root(slots), parts, &mut |left, right| {
        if put.is_ok() && !left.is_empty() {
            // SAFETY: the caller's promise.
            put = unsafe { device.add(left, right) };
        }
        left
    });
    put
}
