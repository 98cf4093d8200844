//! The two messages of a sum: what a member has of a piece, for its owner, and the owner's result.

use std::collections::BTreeMap;
use std::ops::Range;

use perennial_plan::tree::Node;

use crate::element::Element;
use crate::slice::Slice;

/// What goes from one member to another: gradients are sent from where they lie and stay where they were
/// received; the head says what they are, and carries the rest.
#[derive(Debug)]
pub(crate) struct Message {
    pub head: Vec<u8>,
    pub bodies: Vec<Slice>,
}

/// Which elements of the two vectors a message is about.
#[derive(Debug, Clone)]
pub(crate) struct Piece {
    pub gradients: Range<usize>,
    pub statistics: Range<usize>,
}

/// What a member has of a piece: its nodes with their sums.
#[derive(Debug)]
pub(crate) struct Scatter {
    pub control: u64,
    pub gradients: BTreeMap<Node, Slice>,
    pub statistics: BTreeMap<Node, Vec<f64>>,
}

/// The lengths on which all members must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub slots: u32,
    pub gradients: usize,
    pub statistics: usize,
}

// === impl Scatter ===

impl Scatter {
    /// What it holds of this piece.
    pub fn cut(&self, piece: &Piece) -> Self {
        let slices = self.gradients.iter();
        let vectors = self.statistics.iter();
        Self {
            control: self.control,
            gradients: slices
                .map(|(node, slice)| (*node, slice.part(&piece.gradients)))
                .collect(),
            statistics: vectors
                .map(|(node, values)| (*node, values[piece.statistics.clone()].to_vec()))
                .collect(),
        }
    }

    pub fn encode(self, shape: Shape) -> Message {
        let mut head = Vec::new();
        head.extend(shape.slots.to_le_bytes());
        head.extend((shape.gradients as u64).to_le_bytes());
        head.extend((shape.statistics as u64).to_le_bytes());
        head.extend(self.control.to_le_bytes());
        head.extend((self.gradients.len() as u32).to_le_bytes());
        head.extend((self.statistics.len() as u32).to_le_bytes());
        for node in self.gradients.keys().chain(self.statistics.keys()) {
            head.extend(node.start.to_le_bytes());
            head.extend(node.end.to_le_bytes());
        }
        for values in self.statistics.values() {
            f64::write(values, &mut head);
        }
        Message {
            head,
            bodies: self.gradients.into_values().collect(),
        }
    }

    /// Reads a message about this piece; the error says what is wrong with it.
    pub fn decode(message: Message, shape: Shape, piece: &Piece) -> Result<Self, String> {
        let mut reader = Reader(&message.head);
        let slots = reader.u32()?;
        let theirs = Shape {
            slots,
            gradients: reader.u64()? as usize,
            statistics: reader.u64()? as usize,
        };
        if theirs != shape {
            return Err(format!("it sums {theirs:?}, this member {shape:?}"));
        }
        let control = reader.u64()?;
        let gradient_count = reader.u32()?;
        let statistic_count = reader.u32()?;
        let gradient_nodes = reader.nodes(gradient_count, slots)?;
        let statistic_nodes = reader.nodes(statistic_count, slots)?;
        let statistics = reader.parts(statistic_nodes, piece.statistics.len())?;
        reader.end()?;
        check_bodies(&message.bodies, gradient_nodes.len(), piece.gradients.len())?;
        Ok(Self {
            control,
            gradients: gradient_nodes.into_iter().zip(message.bodies).collect(),
            statistics,
        })
    }
}

fn check_bodies(bodies: &[Slice], count: usize, len: usize) -> Result<(), String> {
    let lengths: Vec<usize> = bodies.iter().map(|body| body.values().len()).collect();
    if lengths.len() == count && lengths.iter().all(|found| *found == len) {
        return Ok(());
    }
    Err(format!(
        "it sent vectors of {lengths:?} elements instead of `{count}` of `{len}`"
    ))
}

/// A finished piece of one owner.
pub(crate) fn encode_result(gradients: Slice, statistics: &[f64]) -> Message {
    let mut head = Vec::new();
    f64::write(statistics, &mut head);
    Message {
        head,
        bodies: vec![gradients],
    }
}

/// Reads an owner's finished piece into its place.
pub(crate) fn decode_result(
    message: &Message,
    gradients: &mut [f32],
    statistics: &mut [f64],
) -> Result<(), String> {
    let mut reader = Reader(&message.head);
    f64::read(reader.take(statistics.len() * 8)?, statistics);
    reader.end()?;
    check_bodies(&message.bodies, 1, gradients.len())?;
    gradients.copy_from_slice(message.bodies[0].values());
    Ok(())
}

/// Whether the nodes, in ascending order, are nodes of the tree over `slots` of which none holds another.
pub(crate) fn are_disjoint_nodes<'a>(
    slots: u32,
    nodes: impl IntoIterator<Item = &'a Node>,
) -> bool {
    let mut end = 0;
    for node in nodes {
        let inside = node.start >= end && node.start < node.end && node.end <= slots;
        if !inside || Node::root(slots).maximal_within(&(node.start..node.end)) != [*node] {
            return false;
        }
        end = node.end;
    }
    true
}

/// Reads what was written, in order, and nothing beyond its end.
pub(crate) struct Reader<'a>(pub &'a [u8]);

// === impl Reader ===

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        let (taken, rest) = self
            .0
            .split_at_checked(count)
            .ok_or_else(|| "a message is too short".to_owned())?;
        self.0 = rest;
        Ok(taken)
    }

    pub fn u32(&mut self) -> Result<u32, String> {
        let bytes = self.take(4)?.try_into().expect("four bytes were taken");
        Ok(u32::from_le_bytes(bytes))
    }

    pub fn u64(&mut self) -> Result<u64, String> {
        let bytes = self.take(8)?.try_into().expect("eight bytes were taken");
        Ok(u64::from_le_bytes(bytes))
    }

    pub fn nodes(&mut self, count: u32, slots: u32) -> Result<Vec<Node>, String> {
        if count > slots {
            return Err(format!("it sent `{count}` nodes of `{slots}` slots"));
        }
        let mut nodes = Vec::with_capacity(count as usize);
        for _ in 0..count {
            nodes.push(Node {
                start: self.u32()?,
                end: self.u32()?,
            });
        }
        if !are_disjoint_nodes(slots, &nodes) {
            return Err("it sent nodes that are not in the tree".to_owned());
        }
        Ok(nodes)
    }

    fn parts<T: Element>(
        &mut self,
        nodes: Vec<Node>,
        len: usize,
    ) -> Result<BTreeMap<Node, Vec<T>>, String> {
        let mut parts = BTreeMap::new();
        for node in nodes {
            let bytes = self.take(len * T::SIZE)?;
            let mut values = vec![T::default(); len];
            T::read(bytes, &mut values);
            parts.insert(node, values);
        }
        Ok(parts)
    }

    pub fn end(&self) -> Result<(), String> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(format!("a message is `{}` bytes too long", self.0.len()))
        }
    }
}
