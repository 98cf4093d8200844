//! The two gates of a context (SpatialOperation and ChannelOperation of CAS-ViT): `s = x * sigmoid(n . spatial)`, one gate a
//! pixel, where `n` is the normalised and rectified `hidden`, and `s * sigmoid(channel @ mean(s))`, one gate a channel, with the
//! mean over the pixels of a picture. What is between them is that of a few pictures, which stay in the second-level cache; the
//! backward pass computes it again.

use std::ops::Range;

use pulp::{Simd, WithSimd};

use super::math::Sigmoid;
use super::matmul::{Matrix, TransposedSum, Weight, affine};
use super::norm::{InputGradient, fold};
use super::vectors::{dot, for_vectors, fused, lane_count, load, select_at_least, store};
use super::{Image, TILE_ROWS, tiled, vectorized};
use crate::Precision;

/// The weights of the gates.
#[derive(Debug, Clone, Copy)]
pub struct Gates<'a> {
    /// `[channels]`.
    pub spatial: &'a [f32],
    /// `[channels, channels]`.
    pub channel: &'a [f32],
}

/// How `hidden` is normalised: `[channels]` each. The moments are those of the forward pass.
#[derive(Debug, Clone, Copy)]
pub struct Norm<'a> {
    pub gamma: &'a [f32],
    pub beta: &'a [f32],
    pub mean: &'a [f32],
    pub variance: &'a [f32],
    pub epsilon: f32,
}

/// Values of the pictures that are worked on at once, about.
const GROUP: usize = 16 * 1024;

/// Pictures that are worked on at once: the matrix product that makes gates of their means pays for several.
fn group(shape: Image) -> usize {
    (GROUP / shape.picture().max(1)).clamp(1, shape.batch.max(1))
}

/// Tiles of `pixels`, which are those of one picture.
fn tiles(pixels: Range<usize>) -> impl Iterator<Item = Range<usize>> {
    let end = pixels.end;
    pixels
        .step_by(TILE_ROWS)
        .map(move |first| first..end.min(first + TILE_ROWS))
}

/// What the hidden values and the spatial gates of pixels are made with, `[channels]` each.
#[derive(Debug, Clone, Copy)]
struct Pixels<'a> {
    scale: &'a [f32],
    shift: &'a [f32],
    spatial: &'a [f32],
}

// === impl Pixels ===

impl Pixels<'_> {
    fn channels(&self) -> usize {
        self.spatial.len()
    }

    /// The gates of the pixels of a tile, `sigmoid(n . spatial)`.
    #[inline(always)]
    fn gates<S: Simd>(&self, simd: S, hidden: &[f32], gates: &mut [f32]) {
        let zero = simd.splat_f32s(0.0);
        let pixels = hidden.chunks_exact(self.channels());
        for (gate, hidden) in gates.iter_mut().zip(pixels) {
            *gate = dot(
                simd,
                [hidden, self.scale, self.shift, self.spatial],
                #[inline(always)]
                |[hidden, scale, shift, weight]| {
                    let normal = simd.mul_add_f32s(hidden, scale, shift);
                    [select_at_least(simd, normal, zero), weight]
                },
            );
        }
        Sigmoid(gates).with_simd(simd);
    }
}

/// Adds the lanes of `vectors` to the sums of their channels.
#[inline(always)]
fn add_lanes<S: Simd, const V: usize>(vectors: [S::f32s; V], sums: &mut [f64]) {
    let lanes: &[f32] = pulp::bytemuck::cast_slice(&vectors);
    for (sum, lane) in sums.iter_mut().zip(lanes) {
        *sum += f64::from(*lane);
    }
}

/// The values of a tile behind one gate, `gated = x * sigmoid(n . spatial)`; they are added to the sums of their picture.
struct SpatialGates<'a> {
    pixels: Pixels<'a>,
    x: &'a [f32],
    hidden: &'a [f32],
    gated: &'a mut [f32],
    sums: &'a mut [f64],
}

impl WithSimd for SpatialGates<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let channels = self.pixels.channels();
        let mut gates = [0.0; TILE_ROWS];
        let gates = &mut gates[..self.x.len() / channels];
        self.pixels.gates(simd, self.hidden, gates);
        for_vectors!(S, channels, V, FULL, first => {
            let end = first + lane_count::<S, V, FULL>(channels, first);
            let mut sum = [simd.splat_f32s(0.0); V];
            let rows = self.x.chunks_exact(channels);
            let rows = rows.zip(self.gated.chunks_exact_mut(channels));
            for ((x, gated), gate) in rows.zip(&*gates) {
                let x = load::<S, V, FULL>(simd, &x[first..end]);
                let gate = simd.splat_f32s(*gate);
                let mut value = x;
                for vector in 0..V {
                    value[vector] = simd.mul_f32s(x[vector], gate);
                    sum[vector] = simd.add_f32s(sum[vector], value[vector]);
                }
                store::<S, V, FULL>(simd, &mut gated[first..end], value);
            }
            add_lanes::<S, V>(sum, &mut self.sums[first..end]);
        });
    }
}

/// `sigmoid(channel @ mean)`, a row a picture, from the sums over its pixels; the mean goes to `means`.
fn channel_gates(sums: &[f64], pixels: usize, channel: &Weight, means: &mut [f32]) -> Vec<f32> {
    for (mean, sum) in means.iter_mut().zip(sums) {
        *mean = (sum / pixels as f64) as f32;
    }
    let mut gates = vec![0.0; means.len()];
    let channels = channel.rows();
    let means = Matrix::new(means, means.len() / channels, channels);
    affine(means, channel, None, &mut gates);
    pulp::Arch::new().dispatch(Sigmoid(&mut gates));
    gates
}

/// The gated `x`: `x` and `hidden` have the `shape`, `scale` and `shift` `[channels]` normalise `hidden`.
pub fn forward(
    shape: Image,
    x: &[f32],
    hidden: &[f32],
    (scale, shift): (&[f32], &[f32]),
    gates: Gates,
) -> Vec<f32> {
    if shape.is_empty() {
        return Vec::new();
    }
    let (channels, picture) = (shape.channels, shape.picture());
    let count = picture / channels;
    let channel = Weight::of_transposed(
        Matrix::new(gates.channel, channels, channels),
        group(shape),
        Precision::F32,
    );
    let pixels = Pixels {
        scale,
        shift,
        spatial: gates.spatial,
    };
    let group = group(shape) * picture;
    let mut gated = vec![0.0; group];
    let mut out = Vec::with_capacity(x.len());
    for (x, hidden) in x.chunks(group).zip(hidden.chunks(group)) {
        let gated = &mut gated[..x.len()];
        let mut means = vec![0.0; x.len() / count];
        let mut sums = vec![0.0; means.len()];
        for (picture, sums) in sums.chunks_exact_mut(channels).enumerate() {
            for tile in tiles(picture * count..(picture + 1) * count) {
                let values = tile.start * channels..tile.end * channels;
                pulp::Arch::new().dispatch(SpatialGates {
                    pixels,
                    x: &x[values.clone()],
                    hidden: &hidden[values.clone()],
                    gated: &mut gated[values],
                    sums,
                });
            }
        }
        let gates = channel_gates(&sums, count, &channel, &mut means);
        vectorized(
            #[inline(always)]
            || {
                let pictures = gated.chunks_exact_mut(picture);
                for (gated, gates) in pictures.zip(gates.chunks_exact(channels)) {
                    for pixel in gated.chunks_exact_mut(channels) {
                        for (value, gate) in pixel.iter_mut().zip(gates) {
                            *value *= gate;
                        }
                    }
                }
            },
        );
        out.extend_from_slice(gated);
    }
    out
}

/// The gates of a tile's pixels once more; what the channels' gates and their slopes are made of, the gated values and these times the
/// gradient, is added to the sums of their picture.
struct GateSums<'a> {
    pixels: Pixels<'a>,
    x: &'a [f32],
    hidden: &'a [f32],
    grad: &'a [f32],
    gates: &'a mut [f32],
    sums: &'a mut [f64],
    products: &'a mut [f64],
}

impl WithSimd for GateSums<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let channels = self.pixels.channels();
        self.pixels.gates(simd, self.hidden, self.gates);
        for_vectors!(S, channels, V, FULL, first => {
            let end = first + lane_count::<S, V, FULL>(channels, first);
            let [mut sum, mut product] = [[simd.splat_f32s(0.0); V]; 2];
            let rows = self.x.chunks_exact(channels);
            let rows = rows.zip(self.grad.chunks_exact(channels));
            for ((x, grad), gate) in rows.zip(&*self.gates) {
                let x = load::<S, V, FULL>(simd, &x[first..end]);
                let grad = load::<S, V, FULL>(simd, &grad[first..end]);
                let gate = simd.splat_f32s(*gate);
                for vector in 0..V {
                    let gated = simd.mul_f32s(x[vector], gate);
                    sum[vector] = simd.add_f32s(sum[vector], gated);
                    product[vector] = simd.mul_add_f32s(gated, grad[vector], product[vector]);
                }
            }
            add_lanes::<S, V>(sum, &mut self.sums[first..end]);
            add_lanes::<S, V>(product, &mut self.products[first..end]);
        });
    }
}

/// The gradient of a tile of `x`; the slope of each pixel's gate, which is the gradient of `n`, but for `spatial`; and what is summed
/// over all pixels.
struct PixelGradients<'a> {
    pixels: Pixels<'a>,
    x: &'a [f32],
    hidden: &'a [f32],
    grad: &'a [f32],
    /// Of the pixels.
    gates: &'a [f32],
    /// Of the picture's channels, and the gradients of their means' summands.
    channel_gate: &'a [f32],
    dmean: &'a [f32],
    /// `[channels]`, of `hidden`.
    mean: &'a [f32],
    slopes: &'a mut [f32],
    dx: &'a mut [f32],
    totals: &'a mut Totals,
}

/// Sums over all pixels: the gradient of `spatial`, and of `n`'s gradient alone and times `hidden - mean`.
struct Totals {
    spatial: Vec<f64>,
    sums: Vec<f64>,
    products: Vec<f64>,
}

impl WithSimd for PixelGradients<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Pixels {
            scale,
            shift,
            spatial,
        } = self.pixels;
        let channels = spatial.len();
        let zero = simd.splat_f32s(0.0);
        let rows = self.x.chunks_exact(channels);
        let rows = rows.zip(self.grad.chunks_exact(channels));
        for (slope, (x, grad)) in self.slopes.iter_mut().zip(rows) {
            *slope = dot(
                simd,
                [grad, self.channel_gate, self.dmean, x],
                #[inline(always)]
                |[grad, gate, dmean, x]| [simd.mul_add_f32s(grad, gate, dmean), x],
            );
        }
        for (slope, gate) in self.slopes.iter_mut().zip(self.gates) {
            *slope *= gate * (1.0 - gate);
        }
        for_vectors!(S, channels, V, FULL, first => {
            let end = first + lane_count::<S, V, FULL>(channels, first);
            let [scale, shift, mean, weight, channel_gate, dmean] =
                [scale, shift, self.mean, spatial, self.channel_gate, self.dmean].map(
                    #[inline(always)]
                    |values| load::<S, V, FULL>(simd, &values[first..end]),
                );
            let [mut dweight, mut sum, mut product] = [[zero; V]; 3];
            let rows = self.hidden.chunks_exact(channels);
            let rows = rows.zip(self.grad.chunks_exact(channels));
            let rows = rows.zip(self.dx.chunks_exact_mut(channels));
            let of_pixels = self.gates.iter().zip(&*self.slopes);
            for (((hidden, grad), dx), (gate, slope)) in rows.zip(of_pixels) {
                let hidden = load::<S, V, FULL>(simd, &hidden[first..end]);
                let grad = load::<S, V, FULL>(simd, &grad[first..end]);
                let [gate, slope] = [simd.splat_f32s(*gate), simd.splat_f32s(*slope)];
                let mut value = dmean;
                fused(simd, &grad, &channel_gate, &mut value);
                for vector in 0..V {
                    value[vector] = simd.mul_f32s(value[vector], gate);
                    let (hidden, weight) = (hidden[vector], weight[vector]);
                    let normal = simd.mul_add_f32s(hidden, scale[vector], shift[vector]);
                    let passes = simd.less_than_f32s(zero, normal);
                    let rectified = select_at_least(simd, normal, zero);
                    dweight[vector] = simd.mul_add_f32s(rectified, slope, dweight[vector]);
                    let dnormal = simd.mul_f32s(slope, weight);
                    let dnormal = simd.select_f32s(passes, dnormal, zero);
                    sum[vector] = simd.add_f32s(sum[vector], dnormal);
                    let centred = simd.sub_f32s(hidden, mean[vector]);
                    product[vector] = simd.mul_add_f32s(dnormal, centred, product[vector]);
                }
                store::<S, V, FULL>(simd, &mut dx[first..end], value);
            }
            add_lanes::<S, V>(dweight, &mut self.totals.spatial[first..end]);
            add_lanes::<S, V>(sum, &mut self.totals.sums[first..end]);
            add_lanes::<S, V>(product, &mut self.totals.products[first..end]);
        });
    }
}

/// The gradient of a tile of `hidden`, from the slopes of its pixels.
struct HiddenGradient<'a> {
    pixels: Pixels<'a>,
    mean: &'a [f32],
    of_input: &'a InputGradient,
    hidden: &'a [f32],
    slopes: &'a [f32],
    out: &'a mut [f32],
}

impl WithSimd for HiddenGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Pixels {
            scale,
            shift,
            spatial,
        } = self.pixels;
        let InputGradient { offset, slope, .. } = self.of_input;
        let channels = spatial.len();
        let zero = simd.splat_f32s(0.0);
        for_vectors!(S, channels, V, FULL, first => {
            let end = first + lane_count::<S, V, FULL>(channels, first);
            let [scale, shift, mean, weight, offset, inclination] =
                [scale, shift, self.mean, spatial, offset, slope].map(
                    #[inline(always)]
                    |values| load::<S, V, FULL>(simd, &values[first..end]),
                );
            let rows = self.hidden.chunks_exact(channels);
            let rows = rows.zip(self.out.chunks_exact_mut(channels));
            for ((hidden, out), slope) in rows.zip(self.slopes) {
                let mut value = load::<S, V, FULL>(simd, &hidden[first..end]);
                let slope = simd.splat_f32s(*slope);
                for vector in 0..V {
                    let hidden = value[vector];
                    let normal = simd.mul_add_f32s(hidden, scale[vector], shift[vector]);
                    let passes = simd.less_than_f32s(zero, normal);
                    let dnormal = simd.mul_f32s(slope, weight[vector]);
                    let dnormal = simd.select_f32s(passes, dnormal, zero);
                    let centred = simd.sub_f32s(hidden, mean[vector]);
                    let rest = simd.sub_f32s(dnormal, offset[vector]);
                    let centred = simd.mul_f32s(centred, inclination[vector]);
                    value[vector] = simd.mul_f32s(scale[vector], simd.sub_f32s(rest, centred));
                }
                store::<S, V, FULL>(simd, &mut out[first..end], value);
            }
        });
    }
}

/// The gradients of `x`, `hidden`, `gamma`, `beta`, `spatial` and `channel`.
pub fn backward(
    shape: Image,
    x: &[f32],
    hidden: &[f32],
    norm: Norm,
    gates: Gates,
    grad: &[f32],
) -> [Vec<f32>; 6] {
    let (channels, picture) = (shape.channels, shape.picture());
    let count = shape.height * shape.width;
    let Norm {
        gamma,
        beta,
        mean,
        variance,
        epsilon,
    } = norm;
    let (scale, shift) = fold(gamma, beta, mean, variance, epsilon);
    let pixels = Pixels {
        scale: &scale,
        shift: &shift,
        spatial: gates.spatial,
    };
    let weight = Matrix::new(gates.channel, channels, channels);
    let (channel, channel_transposed) = (
        Weight::of_transposed(weight, group(shape), Precision::F32),
        Weight::of(weight, Precision::F32),
    );
    let group = group(shape);
    let [mut pixel_gates, mut pixel_slopes] = [(); 2].map(|()| vec![0.0; shape.batch * count]);
    let [mut means, mut slopes, mut dmeans] = [(); 3].map(|()| vec![0.0; shape.batch * channels]);
    let [mut sums, mut products] = [(); 2].map(|()| vec![0.0; shape.batch * channels]);
    let zeros = || vec![0.0; channels];
    let mut totals = Totals {
        spatial: zeros(),
        sums: zeros(),
        products: zeros(),
    };
    let mut dx = Vec::with_capacity(x.len());
    let mut dx_tile = vec![0.0; (TILE_ROWS * channels).min(picture)];
    for first in (0..shape.batch).step_by(group) {
        let pictures = first..shape.batch.min(first + group);
        for picture in pictures.clone() {
            let of_picture = picture * channels..(picture + 1) * channels;
            for tile in tiles(picture * count..(picture + 1) * count) {
                let values = tile.start * channels..tile.end * channels;
                pulp::Arch::new().dispatch(GateSums {
                    pixels,
                    x: &x[values.clone()],
                    hidden: &hidden[values.clone()],
                    grad: &grad[values],
                    gates: &mut pixel_gates[tile],
                    sums: &mut sums[of_picture.clone()],
                    products: &mut products[of_picture.clone()],
                });
            }
        }
        let of_group = pictures.start * channels..pictures.end * channels;
        let (means, slopes) = (&mut means[of_group.clone()], &mut slopes[of_group.clone()]);
        let channel_gates = channel_gates(&sums[of_group.clone()], count, &channel, means);
        let dmeans = &mut dmeans[of_group.clone()];
        let products = products[of_group].iter().zip(&channel_gates);
        for (slope, (product, gate)) in slopes.iter_mut().zip(products) {
            *slope = *product as f32 * (gate * (1.0 - gate));
        }
        let slopes = Matrix::new(slopes, pictures.len(), channels);
        affine(slopes, &channel_transposed, None, dmeans);
        for value in &mut *dmeans {
            *value /= count as f32;
        }
        let of_channels = channel_gates.chunks(channels).zip(dmeans.chunks(channels));
        for (picture, (channel_gate, dmean)) in pictures.zip(of_channels) {
            for tile in tiles(picture * count..(picture + 1) * count) {
                let values = tile.start * channels..tile.end * channels;
                let dx_tile = &mut dx_tile[..values.len()];
                pulp::Arch::new().dispatch(PixelGradients {
                    pixels,
                    x: &x[values.clone()],
                    hidden: &hidden[values.clone()],
                    grad: &grad[values],
                    gates: &pixel_gates[tile.clone()],
                    channel_gate,
                    dmean,
                    mean,
                    slopes: &mut pixel_slopes[tile],
                    dx: dx_tile,
                    totals: &mut totals,
                });
                dx.extend_from_slice(dx_tile);
            }
        }
    }
    let mut dchannel = TransposedSum::new(channels, channels, Precision::F32);
    dchannel.add(
        Matrix::new(&slopes, shape.batch, channels),
        Matrix::new(&means, shape.batch, channels),
    );
    let (sums, products) = (&totals.sums, &totals.products);
    let of_input = InputGradient::of(sums, products, variance, epsilon, shape.batch * count);
    let dhidden = tiled(hidden.len(), TILE_ROWS * channels, |at, out| {
        pulp::Arch::new().dispatch(HiddenGradient {
            pixels,
            mean,
            of_input: &of_input,
            hidden: &hidden[at..at + out.len()],
            slopes: &pixel_slopes[at / channels..],
            out,
        });
    });
    let dspatial = totals.spatial.iter().map(|sum| *sum as f32).collect();
    let InputGradient { dgamma, dbeta, .. } = of_input;
    [dx, dhidden, dgamma, dbeta, dspatial, dchannel.into_values()]
}
