//! Dense 3x3 convolution, stride 2, padding 1: patches as rows, and matrix products of them.

use std::ops::Range;

use super::matmul::{Matrix, TransposedSum, Weight, affine, append_affine};
use super::{Image, at_least, linear, vectorized};
use crate::Precision;

/// The shape of the output.
pub fn output_image(shape: Image, outputs: usize) -> Image {
    Image {
        batch: shape.batch,
        height: shape.height.div_ceil(2),
        width: shape.width.div_ceil(2),
        channels: outputs,
    }
}

/// Patches as rows: those of so many rows of output pixels at a time that they stay in the second-level cache.
struct Tiles {
    shape: Image,
    /// Pixels in a row of the output.
    width: usize,
    /// Rows of output pixels in all pictures.
    rows: usize,
    /// Such rows in a tile.
    tile: usize,
}

// === impl Tiles ===

impl Tiles {
    fn of(shape: Image, precision: Precision) -> Self {
        let out = output_image(shape, 1);
        let pixels = linear::tile_rows(9 * shape.channels, precision);
        Self {
            shape,
            width: out.width,
            rows: out.batch * out.height,
            tile: pixels.div_ceil(out.width.max(1)),
        }
    }

    /// Output pixels of all pictures.
    fn pixels(&self) -> usize {
        self.rows * self.width
    }

    /// Calls `work(rows, pixels, patches)` for each tile with the rows of output pixels that it is of, the output pixels,
    /// and room for their patches, `[pixels, 9 * channels]`.
    fn for_each(&self, mut work: impl FnMut(Range<usize>, Range<usize>, &mut [f32])) {
        let patches = self.width * 9 * self.shape.channels;
        let mut buffer = vec![0.0; self.tile.min(self.rows) * patches];
        for first in (0..self.rows).step_by(self.tile) {
            let rows = first..self.rows.min(first + self.tile);
            let pixels = rows.start * self.width..rows.end * self.width;
            let buffer = &mut buffer[..rows.len() * patches];
            work(rows, pixels, buffer);
        }
    }

    /// Calls `visit(taps, seen)` for every row of every patch of a tile: where its three taps are in the patches, and what they see
    /// of the pictures, if anything: from which value of the taps on, from which of the pictures, and how many values.
    #[inline(always)]
    fn for_each_patch_row(
        &self,
        rows: Range<usize>,
        mut visit: impl FnMut(Range<usize>, Option<(usize, usize, usize)>),
    ) {
        let Image {
            height,
            width,
            channels,
            ..
        } = self.shape;
        let out_height = height.div_ceil(2);
        let mut taps = 0..3 * channels;
        for row in rows {
            let (picture, row) = (row / out_height, row % out_height);
            for column in 0..self.width {
                let first = usize::from(column == 0);
                let end = 3.min(width + 1 - 2 * column);
                for dy in 0..3 {
                    let y = (2 * row + dy).wrapping_sub(1);
                    let seen = (y < height).then(|| {
                        let pixel = (picture * height + y) * width + 2 * column + first - 1;
                        (first * channels, pixel * channels, (end - first) * channels)
                    });
                    visit(taps.clone(), seen);
                    taps = taps.end..taps.end + 3 * channels;
                }
            }
        }
    }

    /// Fills in the patches of a tile of `x`, with zeros outside of its pictures.
    fn fill(&self, rows: Range<usize>, x: &[f32], patches: &mut [f32]) {
        self.for_each_patch_row(rows, |taps, seen| {
            let taps = &mut patches[taps];
            match seen {
                Some((_, pixel, length)) if length == taps.len() => {
                    copy(&x[pixel..pixel + length], taps);
                }
                Some((first, pixel, length)) => {
                    taps.fill(0.0);
                    taps[first..first + length].copy_from_slice(&x[pixel..pixel + length]);
                }
                None => taps.fill(0.0),
            }
        });
    }
}

/// Copies three pixels; those of a picture are too short for a call.
#[inline(always)]
fn copy(from: &[f32], to: &mut [f32]) {
    match (
        <&[f32; 9]>::try_from(from),
        <&mut [f32; 9]>::try_from(&mut *to),
    ) {
        (Ok(from), Ok(to)) => *to = *from,
        _ => to.copy_from_slice(from),
    }
}

/// Each output's weight of `columns` columns transposed: `[outputs, inputs, 9]` (PyTorch's order) to
/// `[outputs, 9, inputs]` (a patch's order) with nine columns, and back with `inputs`.
fn transposed(weight: &[f32], inputs: usize, columns: usize) -> Vec<f32> {
    let length = 9 * inputs;
    let rows = length / columns;
    let mut out = vec![0.0; weight.len()];
    let outputs = weight
        .chunks_exact(length)
        .map(|weight| Matrix::new(weight, rows, columns));
    for (out, weight) in out.chunks_exact_mut(length).zip(outputs) {
        weight.transpose_into(out);
    }
    out
}

/// `x`: `[batch, height, width, in]`, `weight`: `[out, in, 3, 3]`, `bias`: `[out]`; `relu`: whether one follows.
pub fn forward(
    shape: Image,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    relu: bool,
    precision: Precision,
) -> Vec<f32> {
    let taps = 9 * shape.channels;
    // Where it is rounded first, then here, when there is one copy of each value instead of up to four.
    let x = precision.operand(x);
    let weight = transposed(&precision.operand(weight), shape.channels, 9);
    let tiles = Tiles::of(shape, precision);
    let weight = Matrix::new(&weight, bias.len(), taps);
    let weight = Weight::of_transposed(weight, tiles.pixels(), precision);
    let mut out = Vec::with_capacity(output_image(shape, bias.len()).len());
    tiles.for_each(|rows, pixels, patches| {
        tiles.fill(rows, &x, patches);
        let start = out.len();
        let patches = Matrix::new(patches, pixels.len(), taps);
        append_affine(patches, &weight, Some(bias), &mut out);
        if relu {
            vectorized(
                #[inline(always)]
                || {
                    for value in &mut out[start..] {
                        *value = at_least(*value, 0.0);
                    }
                },
            );
        }
    });
    out
}

/// The gradients of `x` and `weight`.
pub fn backward(
    shape: Image,
    x: &[f32],
    weight: &[f32],
    grad: &[f32],
    outputs: usize,
    precision: Precision,
) -> (Vec<f32>, Vec<f32>) {
    let (channels, taps) = (shape.channels, 9 * shape.channels);
    let (grad, inputs) = (precision.operand(grad), precision.operand(x));
    let weight = transposed(&precision.operand(weight), channels, 9);
    let tiles = Tiles::of(shape, precision);
    let weight = Matrix::new(&weight, outputs, taps);
    let weight = Weight::for_rows(weight, tiles.pixels(), precision);
    let mut dx = vec![0.0; x.len()];
    let mut dw = TransposedSum::new(outputs, taps, precision);
    tiles.for_each(|rows, pixels, patches| {
        let grad = pixel_gradients(&grad, outputs, pixels.clone());
        tiles.fill(rows.clone(), &inputs, patches);
        dw.add(grad, Matrix::new(patches, pixels.len(), taps));
        affine(grad, &weight, None, patches);
        vectorized(
            #[inline(always)]
            || {
                tiles.for_each_patch_row(
                    rows,
                    #[inline(always)]
                    |taps, seen| {
                        let Some((first, pixel, length)) = seen else {
                            return;
                        };
                        let values = &patches[taps][first..first + length];
                        for (dx, value) in dx[pixel..pixel + length].iter_mut().zip(values) {
                            *dx += value;
                        }
                    },
                );
            },
        );
    });
    (dx, transposed(&dw.into_values(), channels, channels))
}

/// The gradient of `weight` alone, for pictures that nobody wants one of.
pub fn weight_backward(
    shape: Image,
    x: &[f32],
    grad: &[f32],
    outputs: usize,
    precision: Precision,
) -> Vec<f32> {
    let (channels, taps) = (shape.channels, 9 * shape.channels);
    let (grad, inputs) = (precision.operand(grad), precision.operand(x));
    let mut dw = TransposedSum::new(outputs, taps, precision);
    let tiles = Tiles::of(shape, precision);
    tiles.for_each(|rows, pixels, patches| {
        tiles.fill(rows, &inputs, patches);
        let grad = pixel_gradients(&grad, outputs, pixels.clone());
        dw.add(grad, Matrix::new(patches, pixels.len(), taps));
    });
    transposed(&dw.into_values(), channels, channels)
}

fn pixel_gradients(grad: &[f32], outputs: usize, pixels: Range<usize>) -> Matrix<'_> {
    let rows = pixels.len();
    let grad = &grad[pixels.start * outputs..pixels.end * outputs];
    Matrix::new(grad, rows, outputs)
}
