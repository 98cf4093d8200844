//! What a step changes element by element: parameters, their average and the optimizer's moments, one after another in
//! rows of one value. And a fingerprint of them.

#[cfg(feature = "cuda")]
use cubecl::prelude::*;

use super::kernel::kernel;
use super::math::{bits, mul_add, of_bits};

/// Units of a fingerprint, at most: each goes over the values in steps of so many.
pub const STRIDE: usize = 1 << 16;

/// Odd, so that nothing of what is multiplied by them is lost (Appleby, MurmurHash3).
const LOW: u64 = 0x85eb_ca6b;
const HIGH: u64 = 0xc2b2_ae35;

/// PyTorch's `lerp`: exact at both ends. `weight` is from 0 to 1.
#[cfg_attr(feature = "cuda", cube)]
pub fn lerp(start: f32, end: f32, weight: f32) -> f32 {
    let mut between = mul_add(weight, end - start, start);
    if weight >= 0.5f32 {
        between = mul_add(start - end, 1.0f32 - weight, end);
    }
    between
}

/// One parameter's step of AdamW, and of the average where `averaged` is 1. `state`: `[rows, len]`, the parameters, their
/// average if there is one, `exp_avg` and `exp_avg_sq`; out likewise. `decays`: `[len]`, 1 where weight decay leaves `keep`
/// of a parameter, else 0.
#[cfg_attr(feature = "cuda", cube)]
#[allow(clippy::too_many_arguments)]
pub fn adamw(
    unit: usize,
    state: &[f32],
    gradient: &[f32],
    decays: &[f32],
    len: usize,
    averaged: u32,
    average_weight: f32,
    gradient_scale: f32,
    first_weight: f32,
    beta2: f32,
    second_weight: f32,
    correction2_sqrt: f32,
    eps: f32,
    minus_step_size: f32,
    keep: f32,
    out: &mut [f32],
) {
    let gradient = gradient[unit] * gradient_scale;
    let mut first_at = len + unit;
    if averaged == 1u32 {
        first_at = 2 * len + unit;
    }
    let first = lerp(state[first_at], gradient, first_weight);
    let second = mul_add(
        second_weight * gradient,
        gradient,
        state[first_at + len] * beta2,
    );
    let denominator = second.sqrt() / correction2_sqrt + eps;
    let mut kept = 1.0f32;
    if decays[unit] == 1.0f32 {
        kept = keep;
    }
    let value = mul_add(state[unit], kept, minus_step_size * first / denominator);
    out[unit] = value;
    out[first_at] = first;
    out[first_at + len] = second;
    if averaged == 1u32 {
        out[len + unit] = lerp(state[len + unit], value, average_weight);
    }
}
kernel!(
    Adamw,
    adamw_kernel,
    adamw(
        state, gradient, decays;
        len: usize, averaged: u32, average_weight: f32, gradient_scale: f32, first_weight: f32, beta2: f32,
        second_weight: f32, correction2_sqrt: f32, eps: f32, minus_step_size: f32, keep: f32
    )
);

/// One parameter's step of SGD: as [`adamw`](fn@adamw), with the momentum's buffer as the last row where `buffered` is 1.
#[cfg_attr(feature = "cuda", cube)]
#[allow(clippy::too_many_arguments)]
pub fn sgd(
    unit: usize,
    state: &[f32],
    gradient: &[f32],
    decays: &[f32],
    len: usize,
    averaged: u32,
    average_weight: f32,
    gradient_scale: f32,
    buffered: u32,
    momentum: f32,
    minus_learning_rate: f32,
    weight_decay: f32,
    out: &mut [f32],
) {
    let mut buffer_at = len + unit;
    if averaged == 1u32 {
        buffer_at = 2 * len + unit;
    }
    let mut change = mul_add(
        weight_decay * decays[unit],
        state[unit],
        gradient[unit] * gradient_scale,
    );
    if buffered == 1u32 {
        change = mul_add(state[buffer_at], momentum, change);
        out[buffer_at] = change;
    }
    let value = mul_add(minus_learning_rate, change, state[unit]);
    out[unit] = value;
    if averaged == 1u32 {
        out[len + unit] = lerp(state[len + unit], value, average_weight);
    }
}
kernel!(
    Sgd,
    sgd_kernel,
    sgd(
        state, gradient, decays;
        len: usize, averaged: u32, average_weight: f32, gradient_scale: f32, buffered: u32, momentum: f32,
        minus_learning_rate: f32, weight_decay: f32
    )
);

/// `state`, both and `word` of 32 bits, after the word: what differs in one of them differs in the result.
#[cfg_attr(feature = "cuda", cube)]
pub fn mixed(state: u64, word: u64, factor: u64) -> u64 {
    let product = ((state ^ word) * factor) & 0xffff_ffffu64;
    product ^ (product >> 15u64)
}

/// 64 bits of the values `unit`, `unit + stride`, ... below `len`, one after the other. Out: `[2, stride]` words.
#[cfg_attr(feature = "cuda", cube)]
pub fn fingerprint(unit: usize, values: &[f32], len: usize, stride: usize, out: &mut [f32]) {
    let mut low = 0u64;
    let mut high = 0u64;
    for round in 0..(len + stride - 1) / stride {
        let at = round * stride + unit;
        if at < len {
            let word = bits(values[at]) as u64;
            low = mixed(low, word, LOW);
            high = mixed(high, word, HIGH);
        }
    }
    out[unit] = of_bits(low as u32);
    out[stride + unit] = of_bits(high as u32);
}
kernel!(Fingerprint, fingerprint_kernel, fingerprint(values; len: usize, stride: usize));
