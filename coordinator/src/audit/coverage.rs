//! Each sample is applied exactly once an epoch.
//!
//! Not by counting: the order of each epoch is drawn again, and every slot of every step is followed to
//! the samples that the members of the step's generation applied.

use std::collections::BTreeMap;

use perennial_plan::order::{batch_range, slot_range, visiting_order};
use perennial_plan::{Cursor, Generation, Spec};

use super::Finding;
use super::account::{Known, Live};

/// Numbers that were doctored must not exhaust the memory.
const SAMPLES_AT_MOST: usize = 1 << 28;

/// What is wrong in the epochs that the log in the folder `log` has, which stands before step `next`.
pub(super) fn check(
    spec: &Spec,
    log: &str,
    next: u64,
    known: &Known,
    live: &BTreeMap<u64, Vec<Live>>,
    generations: &BTreeMap<u64, &Generation>,
) -> Vec<Finding> {
    let samples = known.train_samples() as usize;
    let steps = u64::from(known.steps_per_epoch(spec));
    let mut findings = Vec::new();
    if samples > SAMPLES_AT_MOST {
        let message = format!(
            "the data has {samples} training samples, of which an audit follows at most {SAMPLES_AT_MOST}"
        );
        return vec![Finding::new(log, message)];
    }
    if steps == 0 {
        return findings;
    }
    // Entries that say more are named by themselves.
    let next = next.min(u64::from(spec.train.epochs) * steps);
    let mut find = |message: String| findings.push(Finding::new(log, message));
    for epoch in 0..next.div_ceil(steps) as u32 {
        let order = visiting_order(spec, epoch, samples);
        if !is_permutation(&order) {
            find(format!(
                "the order of epoch {epoch} is not one of all {samples} samples"
            ));
            continue;
        }
        let first = u64::from(epoch) * steps;
        // The steps that must be there: all, or up to the last one of an epoch under way.
        let due = first..(first + steps).min(next);
        let mut expected = vec![0u32; samples];
        let mut applied = vec![0u32; samples];
        for at in due {
            let cursor = Cursor {
                epoch,
                step: (at - first) as u32,
            };
            let batch = batch_range(samples, spec.train.batch_size as usize, cursor.step);
            for place in batch.clone() {
                expected[order[place] as usize] += 1;
            }
            for live in live.get(&at).into_iter().flatten() {
                let members = generations
                    .get(&live.generation)
                    .map(|generation| &generation.members);
                for member in members.into_iter().flatten() {
                    let slots = member.slots.start..member.slots.end.min(spec.train.slots);
                    for slot in slots {
                        for place in slot_range(batch.clone(), spec.train.slots, slot) {
                            applied[order[place] as usize] += 1;
                        }
                    }
                }
            }
        }
        let pairs = || expected.iter().zip(&applied);
        let missed = pairs()
            .filter(|(expected, applied)| applied < expected)
            .count();
        let more = pairs()
            .filter(|(expected, applied)| applied > expected)
            .count();
        if missed > 0 {
            find(format!(
                "epoch {epoch} misses {missed} of its {samples} samples so far"
            ));
        }
        if more > 0 {
            find(format!(
                "epoch {epoch} applied {more} of its {samples} samples more than once"
            ));
        }
    }
    findings
}

/// Whether each of `0..order.len()` is there once.
fn is_permutation(order: &[u32]) -> bool {
    let mut seen = vec![false; order.len()];
    order.iter().all(|sample| {
        let place = seen.get_mut(*sample as usize);
        place.is_some_and(|seen| !std::mem::replace(seen, true))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_that_repeats_or_leaves_out_a_sample_is_no_permutation() {
        assert!(is_permutation(&[2, 0, 1]));
        assert!(!is_permutation(&[2, 0, 2]));
        assert!(!is_permutation(&[3, 0, 1]));
    }
}
