//! What members sum in the tests of NCCL, and how a program of their own says what came out.

use std::ops::Range;

use perennial_collective::{Contribution, Reduced};

use crate::support::contribution_of;

/// What the owner of the slots `owned` brings to a step.
pub fn contribution(slots: u32, owned: Range<u32>, step: u32, len: usize) -> Contribution {
    contribution_of(slots, owned, len, |slot| values(slot, step, len))
}

/// What a slot computes in a step: `len` numbers whose sum depends on the order, or nothing.
pub fn values(slot: u32, step: u32, len: usize) -> Option<Vec<f32>> {
    let value = |index: usize| {
        let seed = slot as usize * 31 + step as usize * 7 + index;
        (seed as f32).sin() * 10f32.powi((slot % 7) as i32)
    };
    let empty = (slot + step) % 5 == 3;
    (!empty).then(|| (0..len).map(value).collect())
}

/// All bits of a sum, as text.
pub fn told(reduced: &Reduced) -> String {
    let gradients = reduced
        .gradients
        .iter()
        .map(|x| format!("{:08x}", x.to_bits()));
    let statistics = (reduced.statistics.iter()).map(|x| format!("{:016x}", x.to_bits()));
    format!(
        "{:x} {} {}",
        reduced.control,
        statistics.collect::<String>(),
        gradients.collect::<String>()
    )
}
