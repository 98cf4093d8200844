//! The sum itself, the same over every transport.
//!
//! Reduce-scatter and all-gather: each member sends each range of the vector to that range's owner, the
//! owner finishes the tree for its range, then sends the result to everybody. The bytes on the wire are
//! those of a ring when each member holds one node. A range goes in pieces, so that one is summed and sent
//! on, still in the cache, while the next one comes.

use std::collections::BTreeMap;
use std::ops::Range;

use perennial_plan::order::slot_range;
use perennial_plan::tree::{self, Node};

use crate::element::{Element, add};
use crate::error::CollectiveError;
use crate::message::{
    Message, Piece, Scatter, Shape, are_disjoint_nodes, decode_result, encode_result,
};
use crate::slice::{Buffers, Slice};
use crate::{Contribution, Partial, Reduced};

/// Pieces of a range at most.
const PIECES: usize = 16;
/// Numbers in a piece at least, where there are several.
const PIECE: usize = 1 << 18;

/// Messages that each member sends to each other one in a sum, at most.
pub(crate) const MESSAGES: usize = 2 * PIECES;

/// Messages that each member sends to each other one in this sum.
pub(crate) fn messages(contribution: &Contribution, world_size: usize) -> u64 {
    2 * pieces(contribution.gradients.len, world_size) as u64
}

/// Pieces of each range: the same number for all owners.
fn pieces(len: usize, world_size: usize) -> usize {
    (len / world_size / PIECE).clamp(1, PIECES)
}

/// Ordered messages between the members of one generation.
pub(crate) trait Link {
    fn rank(&self) -> usize;
    fn world_size(&self) -> usize;
    /// The memory into which it receives.
    fn buffers(&self) -> &Buffers;
    fn send(&mut self, to: usize, message: Message) -> Result<(), CollectiveError>;
    fn receive(&mut self, from: usize) -> Result<Message, CollectiveError>;
}

pub(crate) fn all_reduce(
    link: &mut impl Link,
    contribution: Contribution,
) -> Result<Reduced, CollectiveError> {
    check(contribution.slots, &contribution.gradients)?;
    check(contribution.slots, &contribution.statistics)?;
    let (rank, world_size) = (link.rank(), link.world_size());
    let buffers = link.buffers().clone();
    let shape = Shape {
        slots: contribution.slots,
        gradients: contribution.gradients.len,
        statistics: contribution.statistics.len,
    };
    if world_size == 1 {
        let Contribution {
            mut gradients,
            mut statistics,
            control,
            ..
        } = contribution;
        return Ok(Reduced {
            gradients: finish(shape.slots, &mut gradients.nodes, shape.gradients),
            statistics: finish(shape.slots, &mut statistics.nodes, shape.statistics),
            control,
        });
    }
    let vectors = contribution.gradients.nodes.into_iter();
    let own = Scatter {
        control: contribution.control,
        gradients: vectors
            .map(|(node, values)| (node, Slice::new(values, None)))
            .collect(),
        statistics: contribution.statistics.nodes,
    };

    // Each begins with another one, so that not all send to the same member first.
    let peers: Vec<usize> = (1..world_size)
        .map(|distance| (rank + distance) % world_size)
        .collect();
    let count = pieces(shape.gradients, world_size);
    let piece = |owner: usize, index: usize| Piece {
        gradients: piece_of(shape.gradients, world_size, owner, count, index),
        statistics: piece_of(shape.statistics, world_size, owner, count, index),
    };
    for index in 0..count {
        for &peer in &peers {
            let part = own.cut(&piece(peer, index));
            link.send(peer, part.encode(shape))?;
        }
    }

    let mut control = own.control;
    let mut finished = Vec::with_capacity(count);
    for index in 0..count {
        let piece = piece(rank, index);
        let mut parts = own.cut(&piece);
        for &peer in &peers {
            let message = link.receive(peer)?;
            take_in(&mut parts, message, shape, &piece)
                .map_err(|reason| CollectiveError::Protocol { rank: peer, reason })?;
        }
        control |= parts.control;
        let root = Node::root(shape.slots);
        let gradients = tree::fold(root, &mut parts.gradients, &mut |left, right| {
            Slice::plus(left, right, &buffers)
        });
        let gradients =
            gradients.unwrap_or_else(|| Slice::new(vec![0.0; piece.gradients.len()], None));
        let statistics = finish(shape.slots, &mut parts.statistics, piece.statistics.len());
        for &peer in &peers {
            link.send(peer, encode_result(gradients.clone(), &statistics))?;
        }
        finished.push((piece, gradients, statistics));
    }

    let spent = own.gradients.into_values().next();
    let mut results = Vec::with_capacity(count * peers.len());
    for index in 0..count {
        for &peer in &peers {
            results.push((peer, piece(peer, index), link.receive(peer)?));
        }
    }
    // All peers have what they were sent of this member's vectors by now.
    let memory = spent.and_then(Slice::reclaim);
    let mut gradients = memory.unwrap_or_else(|| vec![0.0; shape.gradients]);
    let mut statistics = vec![0.0; shape.statistics];
    for (piece, own_gradients, own_statistics) in finished {
        gradients[piece.gradients].copy_from_slice(own_gradients.values());
        statistics[piece.statistics].copy_from_slice(&own_statistics);
    }
    for (peer, piece, result) in results {
        decode_result(
            &result,
            &mut gradients[piece.gradients],
            &mut statistics[piece.statistics],
        )
        .map_err(|reason| CollectiveError::Protocol { rank: peer, reason })?;
    }
    Ok(Reduced {
        gradients,
        statistics,
        control,
    })
}

/// Adds what a peer has of a piece; the error says what is wrong with it.
fn take_in(
    parts: &mut Scatter,
    message: Message,
    shape: Shape,
    piece: &Piece,
) -> Result<(), String> {
    let scatter = Scatter::decode(message, shape, piece)?;
    parts.control |= scatter.control;
    let before = parts.gradients.len() + parts.statistics.len();
    let more = scatter.gradients.len() + scatter.statistics.len();
    parts.gradients.extend(scatter.gradients);
    parts.statistics.extend(scatter.statistics);
    let disjoint = before + more == parts.gradients.len() + parts.statistics.len()
        && are_disjoint_nodes(shape.slots, parts.gradients.keys())
        && are_disjoint_nodes(shape.slots, parts.statistics.keys());
    if disjoint {
        return Ok(());
    }
    Err("it sums slots that another member sums too".to_owned())
}

/// The `index`-th of `count` pieces of that part of a vector of `len` elements that `owner` finishes.
pub(crate) fn piece_of(
    len: usize,
    world_size: usize,
    owner: usize,
    count: usize,
    index: usize,
) -> Range<usize> {
    let range = slot_range(0..len, world_size as u32, owner as u32);
    slot_range(range, count as u32, index as u32)
}

fn finish<T: Element>(slots: u32, nodes: &mut BTreeMap<Node, Vec<T>>, len: usize) -> Vec<T> {
    let sum = tree::fold(Node::root(slots), nodes, &mut |mut left, right| {
        add(&mut left, &right);
        left
    });
    sum.unwrap_or_else(|| vec![T::default(); len])
}

/// Refuses what is no set of disjoint nodes of one length.
pub(crate) fn check<T: Element>(slots: u32, partial: &Partial<T>) -> Result<(), CollectiveError> {
    if !are_disjoint_nodes(slots, partial.nodes.keys()) {
        let nodes: Vec<&Node> = partial.nodes.keys().collect();
        return Err(CollectiveError::Input(format!(
            "`{nodes:?}` are not disjoint nodes of the tree over `{slots}` slots"
        )));
    }
    for (node, values) in &partial.nodes {
        let (found, expected) = (values.len(), partial.len);
        if found != expected {
            return Err(CollectiveError::Input(format!(
                "the node of slots `{}..{}` has `{found}` elements instead of `{expected}`",
                node.start, node.end
            )));
        }
    }
    Ok(())
}
