//! Depthwise convolutions: a window of 3x3 or 7x7 pixels for each channel, stride 1 or 2, padding of half a window.

use super::{Image, at_least, floor, for_blocks, lanes, tiled, vectorized};

/// What a depthwise convolution sees of its input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub(crate) size: usize,
    pub(crate) stride: usize,
}

// === impl Window ===

impl Window {
    /// # Panics
    /// Unless `size` (height and width) is 3 or 7 and `stride` 1 or 2: networks know their windows.
    pub fn new(size: usize, stride: usize) -> Self {
        assert!(
            matches!((size, stride), (3 | 7, 1 | 2)),
            "a depthwise window of {size} pixels with stride {stride}"
        );
        Self { size, stride }
    }

    fn taps(self) -> usize {
        self.size * self.size
    }

    /// The shape of the output.
    pub fn output_image(self, shape: Image) -> Image {
        Image {
            height: shape.height.div_ceil(self.stride),
            width: shape.width.div_ceil(self.stride),
            ..shape
        }
    }
}

/// Calls a function that is generic over size and stride.
macro_rules! for_window {
    ($window:expr, $function:ident($($argument:expr),*)) => {
        match ($window.size, $window.stride) {
            (3, 1) => $function::<3, 1>($($argument),*),
            (3, 2) => $function::<3, 2>($($argument),*),
            (7, 1) => $function::<7, 1>($($argument),*),
            (7, 2) => $function::<7, 2>($($argument),*),
            _ => unreachable!("`Window::new` lets no other pass"),
        }
    };
}

/// The taps by rows: `[channels, 1, size, size]` to `[size * size][channels]`.
fn by_tap(window: Window, weight: &[f32], channels: usize, flipped: bool) -> Vec<f32> {
    let count = window.taps();
    let mut taps = vec![0.0; count * channels];
    for (channel, weight) in weight.chunks_exact(count).enumerate() {
        for (tap, value) in weight.iter().enumerate() {
            let tap = if flipped { count - 1 - tap } else { tap };
            taps[tap * channels + channel] = *value;
        }
    }
    taps
}

/// The rows of a picture that a window covers, with a border of zeros: each in the place of its number modulo `SIZE`, so that
/// they stay in the cache while the window goes down.
struct Rows<'a, const SIZE: usize> {
    shape: Image,
    /// Values in a row with its border.
    len: usize,
    values: Vec<f32>,
    picture: &'a [f32],
    /// Rows of the picture that were taken in, counted from the border above it.
    taken: usize,
}

impl<'a, const SIZE: usize> Rows<'a, SIZE> {
    const BORDER: usize = SIZE / 2;

    fn new(shape: Image) -> Self {
        let len = (shape.width + 2 * Self::BORDER) * shape.channels;
        Self {
            shape,
            len,
            values: vec![0.0; SIZE * len],
            picture: &[],
            taken: 0,
        }
    }

    fn begin(&mut self, picture: &'a [f32]) {
        self.picture = picture;
        self.taken = 0;
    }

    /// Those from `first` on, which is no less than it was before.
    #[inline(always)]
    fn from(&mut self, first: usize) -> [&[f32]; SIZE] {
        let margin = Self::BORDER * self.shape.channels;
        let row = self.shape.width * self.shape.channels;
        while self.taken < first + SIZE {
            let values = &mut self.values[self.taken % SIZE * self.len..][margin..][..row];
            let y = self.taken.wrapping_sub(Self::BORDER);
            if y < self.shape.height {
                values.copy_from_slice(&self.picture[y * row..][..row]);
            } else {
                values.fill(0.0);
            }
            self.taken += 1;
        }
        std::array::from_fn(|row| &self.values[(first + row) % SIZE * self.len..][..self.len])
    }
}

/// Convolves every picture of `x` with `taps`, starts each pixel from `start` and lets it be at least `floor`.
fn convolve<const SIZE: usize, const STRIDE: usize>(
    shape: Image,
    x: &[f32],
    taps: &[f32],
    start: &[f32],
    floor: f32,
) -> Vec<f32> {
    let channels = shape.channels;
    if shape.is_empty() {
        return Vec::new();
    }
    let out = Window::new(SIZE, STRIDE).output_image(shape);
    let mut rows = Rows::<SIZE>::new(shape);
    let row_len = out.width * channels;
    vectorized(
        #[inline(always)]
        || {
            tiled(
                out.len(),
                row_len,
                #[inline(always)]
                |at, out_row| {
                    let (picture, row) = (at / row_len / out.height, at / row_len % out.height);
                    if row == 0 {
                        rows.begin(&x[picture * shape.picture()..][..shape.picture()]);
                    }
                    let rows = rows.from(row * STRIDE);
                    for_blocks!(channels, first, N => {
                        convolve_lanes::<N, SIZE, STRIDE>(channels, rows, taps, (start, floor), first, out_row);
                    });
                },
            )
        },
    )
}

/// Convolves channels `first..first + N` of one row of pixels: `rows` are the padded rows that its windows cover.
#[inline(always)]
fn convolve_lanes<const N: usize, const SIZE: usize, const STRIDE: usize>(
    channels: usize,
    rows: [&[f32]; SIZE],
    taps: &[f32],
    (start, floor): (&[f32], f32),
    first: usize,
    out: &mut [f32],
) {
    let taps: [[[f32; N]; SIZE]; SIZE] = std::array::from_fn(|row| {
        std::array::from_fn(|column| lanes(taps, (row * SIZE + column) * channels + first))
    });
    let start: [f32; N] = lanes(start, first);
    for (column, out) in out.chunks_exact_mut(channels).enumerate() {
        let mut sum = start;
        for (row, taps) in rows.iter().zip(&taps) {
            for (tap_column, tap) in taps.iter().enumerate() {
                let x: [f32; N] = lanes(row, (column * STRIDE + tap_column) * channels + first);
                for lane in 0..N {
                    sum[lane] = x[lane].mul_add(tap[lane], sum[lane]);
                }
            }
        }
        let sum = sum.map(
            #[inline(always)]
            |sum| at_least(sum, floor),
        );
        out[first..][..N].copy_from_slice(&sum);
    }
}

/// `x`: `[batch, height, width, channels]`, `weight`: `[channels, 1, size, size]`, `bias`: `[channels]`; `relu`:
/// whether one follows. The output has the shape [`Window::output_image`].
pub fn forward(
    shape: Image,
    window: Window,
    x: &[f32],
    weight: &[f32],
    bias: &[f32],
    relu: bool,
) -> Vec<f32> {
    let taps = by_tap(window, weight, shape.channels, false);
    for_window!(window, convolve(shape, x, &taps, bias, floor(relu)))
}

/// The gradient of `x`: the gradient of the output, spread out by the stride, convolved with the flipped weight.
pub fn input_gradient(shape: Image, window: Window, weight: &[f32], grad: &[f32]) -> Vec<f32> {
    let start = vec![0.0; shape.channels];
    let taps = by_tap(window, weight, shape.channels, true);
    let dense = Window::new(window.size, 1);
    if window.stride == 1 {
        return for_window!(dense, convolve(shape, grad, &taps, &start, floor(false)));
    }
    let spread = spread(shape, window, grad);
    for_window!(dense, convolve(shape, &spread, &taps, &start, floor(false)))
}

/// The gradient of the output, each pixel in the middle of its window and zeros between.
fn spread(shape: Image, window: Window, grad: &[f32]) -> Vec<f32> {
    let out = window.output_image(shape);
    let channels = shape.channels;
    let mut spread = vec![0.0; shape.len()];
    for (index, pixel) in grad.chunks_exact(channels).enumerate() {
        let (row, column) = (index / out.width % out.height, index % out.width);
        let picture = index / (out.height * out.width);
        let place =
            (picture * shape.height + row * window.stride) * shape.width + column * window.stride;
        spread[place * channels..][..channels].copy_from_slice(pixel);
    }
    spread
}

/// The gradients of `weight` and `bias`.
pub fn weight_gradient(
    shape: Image,
    window: Window,
    x: &[f32],
    grad: &[f32],
) -> (Vec<f32>, Vec<f32>) {
    let (channels, taps) = (shape.channels, window.taps());
    // The taps and the bias: `[taps + 1][channels]`, one picture after the other.
    let mut sums = vec![0.0f32; (taps + 1) * channels];
    if !shape.is_empty() {
        for_window!(window, accumulate(shape, x, grad, &mut sums));
    }
    let mut weight = vec![0.0; taps * channels];
    for (channel, weight) in weight.chunks_exact_mut(taps).enumerate() {
        for (tap, value) in weight.iter_mut().enumerate() {
            *value = sums[tap * channels + channel];
        }
    }
    (weight, sums[taps * channels..].to_vec())
}

/// Adds every picture's products to the sums.
fn accumulate<const SIZE: usize, const STRIDE: usize>(
    shape: Image,
    x: &[f32],
    grad: &[f32],
    sums: &mut [f32],
) {
    let channels = shape.channels;
    let out = Window::new(SIZE, STRIDE).output_image(shape);
    let bias = SIZE * SIZE * channels;
    vectorized(
        #[inline(always)]
        || {
            let pictures = x
                .chunks_exact(shape.picture())
                .zip(grad.chunks_exact(out.picture()));
            for (x, grad) in pictures {
                for_blocks!(channels, first, N => {
                    // As many sums as the registers hold: a small window at once, a large one row by row.
                    if SIZE == 3 {
                        accumulate_rows::<N, SIZE, 3, STRIDE>(shape, x, grad, (0, first), sums);
                    } else {
                        for row in 0..SIZE {
                            accumulate_rows::<N, SIZE, 1, STRIDE>(shape, x, grad, (row, first), sums);
                        }
                    }
                    let mut sum = [0.0f32; N];
                    for grad in grad.chunks_exact(channels) {
                        let grad: [f32; N] = lanes(grad, first);
                        for lane in 0..N {
                            sum[lane] += grad[lane];
                        }
                    }
                    add(&sum, &mut sums[bias + first..][..N]);
                });
            }
        },
    );
}

#[inline(always)]
fn add(values: &[f32], sums: &mut [f32]) {
    for (sum, value) in sums.iter_mut().zip(values) {
        *sum += value;
    }
}

/// Adds one picture's products to the sums of channels `first..first + N` of the taps in `ROWS` rows of the window
/// from `first_row` on.
#[inline(always)]
fn accumulate_rows<const N: usize, const SIZE: usize, const ROWS: usize, const STRIDE: usize>(
    shape: Image,
    x: &[f32],
    grad: &[f32],
    (first_row, first): (usize, usize),
    sums: &mut [f32],
) {
    let Image {
        height,
        width,
        channels,
        ..
    } = shape;
    let border = SIZE / 2;
    let out = Window::new(SIZE, STRIDE).output_image(shape);
    let mut taps = [[[0.0f32; N]; SIZE]; ROWS];
    for row in 0..out.height {
        for column in 0..out.width {
            let grad: [f32; N] = lanes(grad, (row * out.width + column) * channels + first);
            for (tap_row, taps) in taps.iter_mut().enumerate() {
                let y = (row * STRIDE + first_row + tap_row).wrapping_sub(border);
                if y >= height {
                    continue;
                }
                for (tap_column, tap) in taps.iter_mut().enumerate() {
                    let z = (column * STRIDE + tap_column).wrapping_sub(border);
                    if z >= width {
                        continue;
                    }
                    let x: [f32; N] = lanes(x, (y * width + z) * channels + first);
                    for lane in 0..N {
                        tap[lane] = x[lane].mul_add(grad[lane], tap[lane]);
                    }
                }
            }
        }
    }
    for (tap, values) in taps.iter().flatten().enumerate() {
        let tap = first_row * SIZE + tap;
        add(values, &mut sums[tap * channels + first..][..N]);
    }
}
