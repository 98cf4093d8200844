//! The two messages of a sum: what a member sends of a range to its owner, and the owner's result.

use std::collections::BTreeMap;
use std::ops::Range;

use perennial_plan::tree::Node;

use crate::Contribution;
use crate::element::Element;

/// The parts of one range: what its owner gets from one member.
#[derive(Debug, Default)]
pub(crate) struct Scatter {
    pub control: u64,
    pub gradients: BTreeMap<Node, Vec<f32>>,
    pub statistics: BTreeMap<Node, Vec<f64>>,
}

/// The lengths on which all members must agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub slots: u32,
    pub gradients: usize,
    pub statistics: usize,
}

// === impl Shape ===

impl Shape {
    pub fn of(contribution: &Contribution) -> Self {
        Self {
            slots: contribution.slots,
            gradients: contribution.gradients.len,
            statistics: contribution.statistics.len,
        }
    }
}

// === impl Scatter ===

impl Scatter {
    /// What `contribution` holds of these ranges.
    pub fn cut(
        contribution: &Contribution,
        gradients: &Range<usize>,
        statistics: &Range<usize>,
    ) -> Self {
        fn slices<T: Element>(
            nodes: &BTreeMap<Node, Vec<T>>,
            range: &Range<usize>,
        ) -> BTreeMap<Node, Vec<T>> {
            nodes
                .iter()
                .map(|(node, values)| (*node, values[range.clone()].to_vec()))
                .collect()
        }
        Self {
            control: contribution.control,
            gradients: slices(&contribution.gradients.nodes, gradients),
            statistics: slices(&contribution.statistics.nodes, statistics),
        }
    }

    /// The message that carries [`Scatter::cut`].
    pub fn encode(
        contribution: &Contribution,
        gradients: &Range<usize>,
        statistics: &Range<usize>,
    ) -> Vec<u8> {
        let gradient_nodes = &contribution.gradients.nodes;
        let statistic_nodes = &contribution.statistics.nodes;
        let mut bytes = Vec::with_capacity(
            HEADER
                + 8 * (gradient_nodes.len() + statistic_nodes.len())
                + gradient_nodes.len() * gradients.len() * 4
                + statistic_nodes.len() * statistics.len() * 8,
        );
        bytes.extend(contribution.slots.to_le_bytes());
        bytes.extend((contribution.gradients.len as u64).to_le_bytes());
        bytes.extend((contribution.statistics.len as u64).to_le_bytes());
        bytes.extend(contribution.control.to_le_bytes());
        bytes.extend((gradient_nodes.len() as u32).to_le_bytes());
        bytes.extend((statistic_nodes.len() as u32).to_le_bytes());
        for node in gradient_nodes.keys().chain(statistic_nodes.keys()) {
            bytes.extend(node.start.to_le_bytes());
            bytes.extend(node.end.to_le_bytes());
        }
        for values in gradient_nodes.values() {
            f32::write(&values[gradients.clone()], &mut bytes);
        }
        for values in statistic_nodes.values() {
            f64::write(&values[statistics.clone()], &mut bytes);
        }
        bytes
    }

    /// Reads a message of parts with these numbers of elements; the error says what is wrong with it.
    pub fn decode(
        bytes: &[u8],
        shape: Shape,
        gradients: usize,
        statistics: usize,
    ) -> Result<Self, String> {
        let mut reader = Reader(bytes);
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
        let scatter = Self {
            control,
            gradients: reader.parts(gradient_nodes, gradients)?,
            statistics: reader.parts(statistic_nodes, statistics)?,
        };
        reader.end()?;
        Ok(scatter)
    }
}

const HEADER: usize = 4 + 8 + 8 + 8 + 4 + 4;

/// The finished ranges of one owner.
pub(crate) fn encode_result(gradients: &[f32], statistics: &[f64]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(gradients.len() * 4 + statistics.len() * 8);
    f32::write(gradients, &mut bytes);
    f64::write(statistics, &mut bytes);
    bytes
}

/// Reads an owner's finished ranges into their places.
pub(crate) fn decode_result(
    bytes: &[u8],
    gradients: &mut [f32],
    statistics: &mut [f64],
) -> Result<(), String> {
    let mut reader = Reader(bytes);
    f32::read(reader.take(gradients.len() * 4)?, gradients);
    f64::read(reader.take(statistics.len() * 8)?, statistics);
    reader.end()
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

struct Reader<'a>(&'a [u8]);

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

    fn u32(&mut self) -> Result<u32, String> {
        let bytes = self.take(4)?.try_into().expect("four bytes were taken");
        Ok(u32::from_le_bytes(bytes))
    }

    fn u64(&mut self) -> Result<u64, String> {
        let bytes = self.take(8)?.try_into().expect("eight bytes were taken");
        Ok(u64::from_le_bytes(bytes))
    }

    fn nodes(&mut self, count: u32, slots: u32) -> Result<Vec<Node>, String> {
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

    fn end(&self) -> Result<(), String> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(format!("a message is `{}` bytes too long", self.0.len()))
        }
    }
}
