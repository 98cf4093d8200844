//! The sum itself, the same over every transport.
//!
//! Reduce-scatter and all-gather: each member sends each range of the vector to that range's owner, the
//! owner finishes the tree for its range, then sends the result to everybody. The bytes on the wire are
//! those of a ring when each member holds one node.

use std::collections::BTreeMap;
use std::ops::Range;

use perennial_plan::order::slot_range;
use perennial_plan::tree::{self, Node};

use crate::element::{Element, add};
use crate::error::CollectiveError;
use crate::message::{Scatter, Shape, are_disjoint_nodes, decode_result, encode_result};
use crate::{Contribution, Partial, Reduced};

/// Messages that each member sends to each other one in a sum.
pub(crate) const MESSAGES: u64 = 2;

/// Ordered messages between the members of one generation.
pub(crate) trait Link {
    fn rank(&self) -> usize;
    fn world_size(&self) -> usize;
    fn send(&mut self, to: usize, bytes: Vec<u8>) -> Result<(), CollectiveError>;
    fn receive(&mut self, from: usize) -> Result<Vec<u8>, CollectiveError>;
}

pub(crate) fn all_reduce(
    link: &mut impl Link,
    mut contribution: Contribution,
) -> Result<Reduced, CollectiveError> {
    check(contribution.slots, &contribution.gradients)?;
    check(contribution.slots, &contribution.statistics)?;
    let (rank, world_size) = (link.rank(), link.world_size());
    let shape = Shape::of(&contribution);
    if world_size == 1 {
        return Ok(Reduced {
            gradients: finish(
                shape.slots,
                &mut contribution.gradients.nodes,
                shape.gradients,
            ),
            statistics: finish(
                shape.slots,
                &mut contribution.statistics.nodes,
                shape.statistics,
            ),
            control: contribution.control,
        });
    }

    let peers: Vec<usize> = (0..world_size).filter(|peer| *peer != rank).collect();
    let gradient_range = |owner| range_of(shape.gradients, world_size, owner);
    let statistic_range = |owner| range_of(shape.statistics, world_size, owner);
    for &peer in &peers {
        let (gradients, statistics) = (gradient_range(peer), statistic_range(peer));
        let message = Scatter::encode(&contribution, &gradients, &statistics);
        link.send(peer, message)?;
    }

    let (own_gradients, own_statistics) = (gradient_range(rank), statistic_range(rank));
    let mut parts = Scatter::cut(&contribution, &own_gradients, &own_statistics);
    drop(contribution);
    for &peer in &peers {
        let bytes = link.receive(peer)?;
        let scatter = Scatter::decode(&bytes, shape, own_gradients.len(), own_statistics.len());
        let scatter = scatter.map_err(|reason| CollectiveError::Protocol { rank: peer, reason })?;
        parts.control |= scatter.control;
        let before = parts.gradients.len() + parts.statistics.len();
        let more = scatter.gradients.len() + scatter.statistics.len();
        parts.gradients.extend(scatter.gradients);
        parts.statistics.extend(scatter.statistics);
        let disjoint = before + more == parts.gradients.len() + parts.statistics.len()
            && are_disjoint_nodes(shape.slots, parts.gradients.keys())
            && are_disjoint_nodes(shape.slots, parts.statistics.keys());
        if !disjoint {
            return Err(CollectiveError::Protocol {
                rank: peer,
                reason: "it sums slots that another member sums too".to_owned(),
            });
        }
    }
    let finished_gradients = finish(shape.slots, &mut parts.gradients, own_gradients.len());
    let finished_statistics = finish(shape.slots, &mut parts.statistics, own_statistics.len());

    for &peer in &peers {
        link.send(
            peer,
            encode_result(&finished_gradients, &finished_statistics),
        )?;
    }
    let mut gradients = vec![0.0; shape.gradients];
    let mut statistics = vec![0.0; shape.statistics];
    gradients[own_gradients].copy_from_slice(&finished_gradients);
    statistics[own_statistics].copy_from_slice(&finished_statistics);
    for &peer in &peers {
        let bytes = link.receive(peer)?;
        decode_result(
            &bytes,
            &mut gradients[gradient_range(peer)],
            &mut statistics[statistic_range(peer)],
        )
        .map_err(|reason| CollectiveError::Protocol { rank: peer, reason })?;
    }
    Ok(Reduced {
        gradients,
        statistics,
        control: parts.control,
    })
}

/// The part of a vector of `len` elements that `owner` finishes.
fn range_of(len: usize, world_size: usize, owner: usize) -> Range<usize> {
    slot_range(0..len, world_size as u32, owner as u32)
}

fn finish<T: Element>(slots: u32, nodes: &mut BTreeMap<Node, Vec<T>>, len: usize) -> Vec<T> {
    let sum = tree::fold(Node::root(slots), nodes, &mut |left: &mut Vec<T>, right| {
        add(left, right);
    });
    sum.unwrap_or_else(|| vec![T::default(); len])
}

fn check<T: Element>(slots: u32, partial: &Partial<T>) -> Result<(), CollectiveError> {
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
