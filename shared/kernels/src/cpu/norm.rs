//! Batch normalisation over the rows of `[rows, channels]`, and the ReLU that may follow.

use super::{TILE_ROWS, at_least, floor, for_blocks, lanes, tiled, vectorized};

/// The mean and the biased variance of each channel, by one pass over memory: a tile's own moments, which are put together
/// in `f64` (Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983).
pub fn moments(x: &[f32], channels: usize) -> (Vec<f32>, Vec<f32>) {
    let mut means = vec![0.0f64; channels];
    let mut squares = vec![0.0f64; channels];
    let mut before = 0.0;
    vectorized(
        #[inline(always)]
        || {
            for x in x.chunks(TILE_ROWS * channels) {
                let rows = (x.len() / channels) as f64;
                let after = before + rows;
                for_blocks!(channels, first, N => {
                    let mut sum = [0.0f32; N];
                    for x in x.chunks_exact(channels) {
                        let x: [f32; N] = lanes(x, first);
                        for c in 0..N {
                            sum[c] += x[c];
                        }
                    }
                    // Sums of large values are rounded much: what the centre is off by is summed as well.
                    let centre: [f32; N] = sum.map(#[inline(always)] |sum| sum / rows as f32);
                    let (mut rest, mut square) = ([0.0f32; N], [0.0f32; N]);
                    for x in x.chunks_exact(channels) {
                        let x: [f32; N] = lanes(x, first);
                        for c in 0..N {
                            let centred = x[c] - centre[c];
                            rest[c] += centred;
                            square[c] = centred.mul_add(centred, square[c]);
                        }
                    }
                    for c in 0..N {
                        let rest = f64::from(rest[c]);
                        let apart = f64::from(centre[c]) + rest / rows - means[first + c];
                        means[first + c] += apart * (rows / after);
                        squares[first + c] += f64::from(square[c]) - rest * rest / rows
                            + apart * apart * (before * rows / after);
                    }
                });
                before = after;
            }
        },
    );
    let variance = squares.iter().map(|sum| (sum / before) as f32);
    let variance = variance.collect();
    let mean = means.into_iter().map(|mean| mean as f32).collect();
    (mean, variance)
}

/// Per channel, the factor and the summand that normalise: `gamma / sqrt(variance + epsilon)` and
/// `beta - mean * factor`.
pub fn fold(
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    variance: &[f32],
    epsilon: f32,
) -> (Vec<f32>, Vec<f32>) {
    let scale: Vec<f32> = gamma
        .iter()
        .zip(variance)
        .map(|(gamma, variance)| gamma / (variance + epsilon).sqrt())
        .collect();
    let shift = beta
        .iter()
        .zip(mean)
        .zip(&scale)
        .map(|((beta, mean), scale)| beta - mean * scale)
        .collect();
    (scale, shift)
}

/// `activation((x - mean) / sqrt(variance + epsilon) * gamma + beta)`.
pub fn normalize(
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    mean: &[f32],
    variance: &[f32],
    epsilon: f32,
    relu: bool,
) -> Vec<f32> {
    let (scale, shift) = fold(gamma, beta, mean, variance, epsilon);
    scale_shift(x, &scale, &shift, relu)
}

/// `activation(x * scale + shift)` over the last axis.
pub fn scale_shift(x: &[f32], scale: &[f32], shift: &[f32], relu: bool) -> Vec<f32> {
    let channels = scale.len();
    let floor = floor(relu);
    vectorized(
        #[inline(always)]
        || {
            tiled(
                x.len(),
                TILE_ROWS * channels,
                #[inline(always)]
                |at, out| {
                    let x = x[at..].chunks_exact(channels);
                    for (out, x) in out.chunks_exact_mut(channels).zip(x) {
                        for (((out, x), scale), shift) in
                            out.iter_mut().zip(x).zip(scale).zip(shift)
                        {
                            *out = at_least(x.mul_add(*scale, *shift), floor);
                        }
                    }
                },
            )
        },
    )
}

/// What the gradient of a normalisation's input is made of: `scale * (grad - offset - (x - mean) * slope)`, a value a channel
/// (Ioffe and Szegedy, "Batch normalization", 2015).
pub(super) struct InputGradient {
    pub dgamma: Vec<f32>,
    pub dbeta: Vec<f32>,
    pub offset: Vec<f32>,
    pub slope: Vec<f32>,
}

// === impl InputGradient ===

impl InputGradient {
    /// From the sums over `rows` rows of the output's gradient, and of this times `x - mean`.
    pub fn of(sums: &[f64], products: &[f64], variance: &[f32], epsilon: f32, rows: usize) -> Self {
        let inverse: Vec<f32> = variance
            .iter()
            .map(|variance| 1.0 / (variance + epsilon).sqrt())
            .collect();
        let dbeta: Vec<f32> = sums.iter().map(|sum| *sum as f32).collect();
        let dgamma: Vec<f32> = products
            .iter()
            .zip(&inverse)
            .map(|(sum, inverse)| (*sum * f64::from(*inverse)) as f32)
            .collect();
        let rows = rows as f32;
        let offset = dbeta.iter().map(|sum| sum / rows).collect();
        let slope = dgamma
            .iter()
            .zip(&inverse)
            .map(|(sum, inverse)| sum * inverse / rows)
            .collect();
        Self {
            dgamma,
            dbeta,
            offset,
            slope,
        }
    }
}

/// The gradients of `x`, `gamma` and `beta`.
/// `moments` are the mean and the biased variance of the forward pass.
pub fn backward(
    x: &[f32],
    gamma: &[f32],
    beta: &[f32],
    moments: (&[f32], &[f32]),
    epsilon: f32,
    relu: bool,
    grad: &[f32],
) -> (Vec<f32>, Vec<f32>, Vec<f32>) {
    let (mean, variance) = moments;
    let channels = gamma.len();
    let (scale, shift) = fold(gamma, beta, mean, variance, epsilon);
    let floor = floor(relu);

    let mut sums = vec![0.0f64; channels];
    let mut products = vec![0.0f64; channels];
    vectorized(
        #[inline(always)]
        || {
            for (x, grad) in x
                .chunks(TILE_ROWS * channels)
                .zip(grad.chunks(TILE_ROWS * channels))
            {
                for_blocks!(channels, first, N => {
                    let scale: [f32; N] = lanes(&scale, first);
                    let shift: [f32; N] = lanes(&shift, first);
                    let mean: [f32; N] = lanes(mean, first);
                    let (mut sum, mut product) = ([0.0f32; N], [0.0f32; N]);
                    for (x, grad) in x.chunks_exact(channels).zip(grad.chunks_exact(channels)) {
                        let (x, grad) = (lanes::<N>(x, first), lanes::<N>(grad, first));
                        for c in 0..N {
                            let passes = x[c].mul_add(scale[c], shift[c]) > floor;
                            let grad = if passes { grad[c] } else { 0.0 };
                            sum[c] += grad;
                            product[c] = grad.mul_add(x[c] - mean[c], product[c]);
                        }
                    }
                    for c in 0..N {
                        sums[first + c] += f64::from(sum[c]);
                        products[first + c] += f64::from(product[c]);
                    }
                });
            }
        },
    );
    let InputGradient {
        dgamma,
        dbeta,
        offset,
        slope,
    } = InputGradient::of(&sums, &products, variance, epsilon, x.len() / channels);
    let dx = vectorized(
        #[inline(always)]
        || {
            tiled(
                x.len(),
                TILE_ROWS * channels,
                #[inline(always)]
                |at, dx| {
                    let (x, grad) = (&x[at..], &grad[at..]);
                    for_blocks!(channels, first, N => {
                        let scale: [f32; N] = lanes(&scale, first);
                        let shift: [f32; N] = lanes(&shift, first);
                        let mean: [f32; N] = lanes(mean, first);
                        let offset: [f32; N] = lanes(&offset, first);
                        let slope: [f32; N] = lanes(&slope, first);
                        let rows = x.chunks_exact(channels).zip(grad.chunks_exact(channels));
                        for (dx, (x, grad)) in dx.chunks_exact_mut(channels).zip(rows) {
                            let (x, grad) = (lanes::<N>(x, first), lanes::<N>(grad, first));
                            let dx: &mut [f32; N] = (&mut dx[first..][..N]).try_into().expect("N values");
                            for c in 0..N {
                                let passes = x[c].mul_add(scale[c], shift[c]) > floor;
                                let grad = if passes { grad[c] } else { 0.0 };
                                dx[c] = scale[c] * (grad - offset[c] - (x[c] - mean[c]) * slope[c]);
                            }
                        }
                    });
                },
            )
        },
    );
    (dx, dgamma, dbeta)
}
