//! One sum on the device, from the own nodes to the result.

use std::collections::BTreeMap;

use perennial_plan::tree::Node;

use super::communicator::Communicator;
use super::device::{DeviceError, DeviceSum, Span};
use super::engine::Works;
use super::exact::{self, Places};
use super::handle::Fault;
use super::layout::Layout;
use super::{NcclConfig, Reduction};

/// What a sum leaves: the result, and buffers that nothing uses any more.
pub(super) struct Summed<B> {
    pub result: B,
    pub spent: Vec<B>,
}

/// Sums what lies on the host, by way of the device.
pub(super) fn from_host<D: DeviceSum>(
    works: &mut Works<D>,
    layout: &Layout,
    rank: usize,
    config: &NcclConfig,
    nodes: BTreeMap<Node, Vec<f32>>,
) -> Result<Vec<f32>, Fault> {
    let mut buffers = BTreeMap::new();
    let mut memory = None;
    for (node, values) in nodes {
        let mut buffer = works.buffer(layout.len)?;
        works.device.upload(&values, &mut buffer)?;
        buffers.insert(node, buffer);
        memory = Some(values);
    }
    let mut result = memory.unwrap_or_default();
    result.resize(layout.len, 0.0);
    to_host(works, layout, rank, config, buffers, result)
}

/// Sums what lies on the device, and copies the sum into `result`, which is as long.
pub(super) fn to_host<D: DeviceSum>(
    works: &mut Works<D>,
    layout: &Layout,
    rank: usize,
    config: &NcclConfig,
    nodes: BTreeMap<Node, D::Buffer>,
    mut result: Vec<f32>,
) -> Result<Vec<f32>, Fault> {
    let mut summed = on_device(works, layout, rank, config, nodes)?;
    works.device.download(&summed.result, &mut result)?;
    summed.spent.push(summed.result);
    works.keep(summed.spent);
    Ok(result)
}

/// Sums what lies on the device.
pub(super) fn on_device<D: DeviceSum>(
    works: &mut Works<D>,
    layout: &Layout,
    rank: usize,
    config: &NcclConfig,
    mut nodes: BTreeMap<Node, D::Buffer>,
) -> Result<Summed<D::Buffer>, Fault> {
    let own: BTreeMap<Node, Span> = (nodes.iter())
        .map(|(node, buffer)| (*node, works.device.span(buffer)))
        .collect();
    if let Some((node, span)) = own.iter().find(|(_, span)| span.len() != layout.len) {
        let (found, expected) = (span.len(), layout.len);
        return Err(Fault::Device(DeviceError(format!(
            "the node of slots `{}..{}` has `{found}` elements on the device instead of `{expected}`",
            node.start, node.end
        ))));
    }
    // The tree adds everything to its first node: of all members' in an exact sum, of the own in a fast one.
    let first = match config.reduction {
        Reduction::Exact => layout.first(),
        Reduction::Fast => own.keys().next().copied(),
    };
    let result = match first.and_then(|first| nodes.remove(&first)) {
        Some(buffer) => buffer,
        None => works.buffer(layout.len)?,
    };
    let mut summed = Summed {
        result,
        spent: nodes.into_values().collect(),
    };
    let staging = match config.reduction {
        Reduction::Exact => layout.staging(rank, config.chunk),
        Reduction::Fast => 0,
    };
    let staging = match staging {
        0 => None,
        len => Some(works.buffer(len)?),
    };
    let Works {
        communicator,
        device,
        ..
    } = works;
    if first.is_none() {
        device.clear(&mut summed.result)?;
    }
    let nothing = Span::new(0, 0);
    let places = Places {
        own: &own,
        result: device.span(&summed.result),
        staging: staging
            .as_ref()
            .map_or(nothing, |buffer| device.span(buffer)),
    };
    // SAFETY: all places are of the buffers in `summed` and `staging`, which live until the stream is idle or the
    // communicator is aborted, and that this thread alone has. Buffers do not overlap; the result is the
    // first node's where this member has it.
    let put = unsafe {
        match (config.reduction, layout.first()) {
            (_, None) => Ok(()),
            (Reduction::Exact, Some(_)) => {
                exact::sum(communicator, device, layout, rank, config.chunk, &places)
            }
            (Reduction::Fast, Some(_)) => fast(communicator, device, layout, config.chunk, &places),
        }
    };
    let (mut summed, staging) = works.settle(put, (summed, staging))?;
    summed.spent.extend(staging);
    Ok(summed)
}

/// Sums the own nodes by the tree, and what the members have of that by NCCL's all-reduce, bucket by bucket:
/// in the order of their indices, which is the same at every member.
///
/// # Safety
/// As for [`exact::sum`], with the own first node in place of the first of all.
unsafe fn fast<D: DeviceSum>(
    communicator: &Communicator,
    device: &mut D,
    layout: &Layout,
    chunk: usize,
    places: &Places<'_>,
) -> Result<(), Fault> {
    let mut own = places.own.clone();
    // SAFETY: the caller's promise.
    unsafe { exact::fold(device, layout.slots, &mut own) }?;
    if layout.world_size() == 1 {
        return Ok(());
    }
    let mut start = 0;
    while start < layout.len {
        let end = layout.len.min(start.saturating_add(chunk.max(1)));
        let bucket = places.result.part(&(start..end));
        // SAFETY: the caller's promise.
        communicator.group(|group| unsafe { group.all_reduce(bucket) })?;
        start = end;
    }
    Ok(())
}
