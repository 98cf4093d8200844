//! Sums over rows: each unit adds up to [`GROUP`] rows of one column, and [`total`] adds the groups until one is left.

#[cfg(feature = "cuda")]
use cubecl::prelude::*;

use super::kernel::{Machine, kernel};
use super::math::mul_add;

/// Rows that one unit adds.
pub const GROUP: usize = 64;

/// `x`: `[batch, rows, columns]`, out: `[batch, groups, columns]`.
#[cfg_attr(feature = "cuda", cube)]
pub fn sum_groups(
    unit: usize,
    x: &[f32],
    rows: usize,
    groups: usize,
    columns: usize,
    out: &mut [f32],
) {
    let column = unit % columns;
    let group = unit / columns % groups;
    let batch = unit / columns / groups;
    let start = group * GROUP;
    let mut end = start + GROUP;
    if end > rows {
        end = rows;
    }
    let mut sum = 0.0f32;
    for row in start..end {
        sum += x[(batch * rows + row) * columns + column];
    }
    out[unit] = sum;
}
kernel!(SumGroups, sum_groups_kernel, sum_groups(x; rows: usize, groups: usize, columns: usize));

/// Of `x * y`, both `[batch, rows, columns]`, out: `[batch, groups, columns]`.
#[cfg_attr(feature = "cuda", cube)]
pub fn product_groups(
    unit: usize,
    x: &[f32],
    y: &[f32],
    rows: usize,
    groups: usize,
    columns: usize,
    out: &mut [f32],
) {
    let column = unit % columns;
    let group = unit / columns % groups;
    let batch = unit / columns / groups;
    let start = group * GROUP;
    let mut end = start + GROUP;
    if end > rows {
        end = rows;
    }
    let mut sum = 0.0f32;
    for row in start..end {
        let at = (batch * rows + row) * columns + column;
        sum = mul_add(x[at], y[at], sum);
    }
    out[unit] = sum;
}
kernel!(ProductGroups, product_groups_kernel, product_groups(x, y; rows: usize, groups: usize, columns: usize));

/// Of `x * weight`, `x`: `[rows, columns]`, `weight`: `[rows]`, out: `[groups, columns]`.
#[cfg_attr(feature = "cuda", cube)]
pub fn weighted_groups(
    unit: usize,
    x: &[f32],
    weight: &[f32],
    rows: usize,
    columns: usize,
    out: &mut [f32],
) {
    let column = unit % columns;
    let start = unit / columns * GROUP;
    let mut end = start + GROUP;
    if end > rows {
        end = rows;
    }
    let mut sum = 0.0f32;
    for row in start..end {
        sum = mul_add(x[row * columns + column], weight[row], sum);
    }
    out[unit] = sum;
}
kernel!(WeightedGroups, weighted_groups_kernel, weighted_groups(x, weight; rows: usize, columns: usize));

/// Of `(x - mean)^2`, `x`: `[rows, columns]`, `mean`: `[columns]`, out: `[groups, columns]`.
#[cfg_attr(feature = "cuda", cube)]
pub fn square_groups(
    unit: usize,
    x: &[f32],
    mean: &[f32],
    rows: usize,
    columns: usize,
    out: &mut [f32],
) {
    let column = unit % columns;
    let start = unit / columns * GROUP;
    let mut end = start + GROUP;
    if end > rows {
        end = rows;
    }
    let middle = mean[column];
    let mut sum = 0.0f32;
    for row in start..end {
        let centred = x[row * columns + column] - middle;
        sum = mul_add(centred, centred, sum);
    }
    out[unit] = sum;
}
kernel!(SquareGroups, square_groups_kernel, square_groups(x, mean; rows: usize, columns: usize));

/// The sum over the rows of `[batch, rows, columns]`: `[batch, columns]`.
pub fn total<M: Machine>(
    machine: &M,
    values: M::Values,
    batch: usize,
    mut rows: usize,
    columns: usize,
) -> M::Values {
    let mut values = values;
    while rows > 1 {
        let groups = rows.div_ceil(GROUP);
        let units = batch * groups * columns;
        values = machine.run::<SumGroups>(&[&values], (rows, groups, columns), units, units);
        rows = groups;
    }
    values
}
