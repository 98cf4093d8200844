//! One slot on the device, from its parts to the sum of all siblings that wait for it.

use std::ops::Range;

use super::device::{DeviceSum, Lent, Place};
use super::engine::Works;
use super::handle::Fault;
use crate::error::CollectiveError;
use crate::slot_tree::Climb;

/// What a slot computed: the parts of its vector that are not zero.
pub(super) type Parts = Vec<(Range<usize>, Lent)>;

/// Refuses parts that do not lie inside a vector of `len` elements, or not where a device of `place` can read them.
pub(super) fn check(
    slot: u32,
    parts: &Parts,
    len: usize,
    place: Place,
) -> Result<(), CollectiveError> {
    for (range, part) in parts {
        let fits = range.start <= range.end && range.end <= len && range.len() == part.len();
        if !fits || part.place() != place {
            return Err(CollectiveError::Input(format!(
                "`{part:?}` of slot `{slot}` is no part `{range:?}` of `{len}` elements in {place:?}"
            )));
        }
    }
    Ok(())
}

/// Adds `parts` of a vector of `len` elements, none: an empty slot, and the siblings that wait, in the order and with
/// the operations of [`SlotSum`](crate::SlotSum). The parts are let go when they have been added.
pub(super) fn add<D: DeviceSum>(
    works: &mut Works<D>,
    len: usize,
    climb: Climb<D::Buffer>,
    parts: Option<Parts>,
) -> Result<Option<D::Buffer>, Fault> {
    let mut siblings = climb.siblings;
    if siblings.is_empty() && parts.is_some() {
        let mut sum = works.buffer(len)?;
        works.device.clear(&mut sum)?;
        siblings.push(sum);
    }
    let put = put(&mut works.device, &siblings, parts.iter().flatten());
    let (mut siblings, _parts) = works.settle(put, (siblings, parts))?;
    let spent = siblings.split_off(siblings.len().min(1));
    works.keep(spent);
    Ok(siblings.pop())
}

/// Puts the additions on the stream. The sum comes to be in the first of `buffers`.
fn put<'a, D: DeviceSum>(
    device: &mut D,
    buffers: &[D::Buffer],
    parts: impl Iterator<Item = &'a (Range<usize>, Lent)>,
) -> Result<(), Fault> {
    let Some((first, rest)) = buffers.split_first() else {
        return Ok(());
    };
    let sum = device.span(first);
    for (range, part) in parts {
        // SAFETY: the part is as long as its range, lies in this device's memory, and is there until the stream is idle or
        // given up; nobody but this thread has the buffers.
        unsafe { device.add(sum.part(range), part.span()) }?;
    }
    for sibling in rest {
        // SAFETY: both are all of a vector, and nobody but this thread has the buffers.
        unsafe { device.add(sum, device.span(sibling)) }?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_outside_of_the_vector_or_in_other_memory_are_refused() {
        let part = |range: Range<usize>, len: usize| (range, Lent::from(vec![1.0; len]));
        let check = |parts, place| check(3, &parts, 8, place);
        assert_eq!(
            check(vec![part(0..3, 3), part(5..8, 3)], Place::Host),
            Ok(())
        );
        for stray in [part(5..9, 4), part(0..3, 2), part(9..9, 0)] {
            let said = check(vec![stray], Place::Host).unwrap_err().to_string();
            assert!(said.contains("of slot `3` is no part"), "{said}");
        }
        let elsewhere = check(vec![part(0..3, 3)], Place::Cuda(0)).unwrap_err();
        assert!(elsewhere.to_string().contains("in Cuda(0)"), "{elsewhere}");
    }
}
