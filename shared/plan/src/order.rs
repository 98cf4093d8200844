//! Which sample is applied when: the order of an epoch, its steps, and the slots of a step.

use std::ops::Range;

use crate::Spec;
use crate::random::{Domain, Stream};

/// The order in which an epoch visits the training samples: a permutation of `0..samples` that
/// depends on the seed and the epoch alone.
pub fn epoch_order(seed: u64, epoch: u32, samples: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..samples as u32).collect();
    Stream::new(seed, Domain::Order, &[u64::from(epoch)]).shuffle(&mut order);
    order
}

/// The order in which an epoch of this job visits its samples: drawn where it trains, as they lie where it evaluates.
pub fn visiting_order(spec: &Spec, epoch: u32, samples: usize) -> Vec<u32> {
    match spec.evaluate {
        None => epoch_order(spec.seed, epoch, samples),
        Some(_) => (0..samples as u32).collect(),
    }
}

/// Steps in an epoch. The last one may be short; none is padded or dropped.
pub fn steps_per_epoch(samples: usize, batch_size: usize) -> u32 {
    samples.div_ceil(batch_size) as u32
}

/// The positions in the epoch's order that step `step` covers.
pub fn batch_range(samples: usize, batch_size: usize, step: u32) -> Range<usize> {
    let start = (step as usize * batch_size).min(samples);
    start..(start + batch_size).min(samples)
}

/// The `slot`-th of `slots` nearly equal contiguous parts of `range`: the first
/// `len % slots` parts are one longer.
pub fn slot_range(range: Range<usize>, slots: u32, slot: u32) -> Range<usize> {
    let (slots, slot) = (slots as usize, slot as usize);
    let (base, longer) = (range.len() / slots, range.len() % slots);
    let start = range.start + slot * base + slot.min(longer);
    start..start + base + usize::from(slot < longer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_visits_each_sample_exactly_once_whatever_divides_what() {
        for (samples, batch, slots) in [
            (1, 1, 1),
            (103, 10, 4),
            (64, 64, 7),
            (5, 8, 8),
            (2818, 64, 3),
        ] {
            let order = epoch_order(42, 3, samples);
            let mut seen = vec![0u32; samples];
            for step in 0..steps_per_epoch(samples, batch) {
                let range = batch_range(samples, batch, step);
                let mut next = range.start;
                for slot in 0..slots {
                    let part = slot_range(range.clone(), slots, slot);
                    assert_eq!(part.start, next, "slots are contiguous");
                    next = part.end;
                    part.for_each(|position| seen[order[position] as usize] += 1);
                }
                assert_eq!(next, range.end);
            }
            assert!(seen.iter().all(|count| *count == 1));
        }
    }

    #[test]
    fn the_order_changes_with_epoch_and_seed() {
        assert_ne!(epoch_order(1, 0, 100), epoch_order(1, 1, 100));
        assert_ne!(epoch_order(1, 0, 100), epoch_order(2, 0, 100));
    }
}
