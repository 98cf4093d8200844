//! Pillow's bilinear and bicubic resizing of 8-bit RGB, bit for bit (`src/libImaging/Resample.c`): two
//! passes of fixed-point convolution, horizontal then vertical, rounded to bytes between them, with the
//! filter widened when shrinking.

use perennial_plan::spec::Interpolation;

use crate::decode::Picture;

/// Fractional bits of a coefficient.
const PRECISION: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION - 1);

/// A rectangle of a picture in pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Region {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
}

/// The picture resized to `width` x `height`, whatever its aspect; unchanged when it has that size.
pub fn resize(picture: &Picture, width: u32, height: u32, filter: Interpolation) -> Picture {
    let whole = Region {
        left: 0,
        top: 0,
        width: picture.width,
        height: picture.height,
    };
    resize_region(picture, whole, width, height, filter)
}

/// `region` of the picture, cut out first and then resized, as if nothing lay around it.
pub fn resize_region(
    picture: &Picture,
    region: Region,
    width: u32,
    height: u32,
    filter: Interpolation,
) -> Picture {
    let stride = 3 * picture.width as usize;
    let start = 3 * region.left as usize;
    let rows = picture
        .pixels
        .chunks_exact(stride)
        .skip(region.top as usize)
        .take(region.height as usize)
        .map(|row| &row[start..start + 3 * region.width as usize]);

    let narrowed: Vec<u8> = if region.width == width {
        rows.flatten().copied().collect()
    } else {
        let windows = windows(region.width, width, filter);
        let mut narrowed = Vec::with_capacity(3 * width as usize * region.height as usize);
        rows.for_each(|row| horizontal(row, &windows, &mut narrowed));
        narrowed
    };
    let pixels = if region.height == height {
        narrowed
    } else {
        vertical(
            &narrowed,
            3 * width as usize,
            &windows(region.height, height, filter),
        )
    };
    Picture {
        width,
        height,
        pixels,
    }
}

/// The source positions that one output position weighs, from `start` on.
struct Window {
    start: usize,
    coefficients: Vec<i32>,
}

fn windows(input: u32, output: u32, filter: Interpolation) -> Vec<Window> {
    let scale = f64::from(input) / f64::from(output);
    let filter_scale = scale.max(1.0);
    let (kernel, radius): (fn(f64) -> f64, f64) = match filter {
        Interpolation::Bilinear => (triangle, 1.0),
        Interpolation::Bicubic => (cubic, 2.0),
    };
    let support = radius * filter_scale;
    let inverse = 1.0 / filter_scale;
    (0..output)
        .map(|position| {
            let center = (f64::from(position) + 0.5) * scale;
            let start = ((center - support + 0.5) as i64).max(0);
            let end = ((center + support + 0.5) as i64).min(i64::from(input));
            let weights: Vec<f64> = (start..end)
                .map(|source| kernel((source as f64 - center + 0.5) * inverse))
                .collect();
            let sum: f64 = weights.iter().sum();
            Window {
                start: start as usize,
                coefficients: weights.iter().map(|w| fixed_point(w / sum)).collect(),
            }
        })
        .collect()
}

fn triangle(x: f64) -> f64 {
    (1.0 - x.abs()).max(0.0)
}

/// Keys' cubic with a = -0.5.
fn cubic(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        (((x - 5.0) * x + 8.0) * x - 4.0) * A
    } else {
        0.0
    }
}

/// Rounded half away from zero.
fn fixed_point(weight: f64) -> i32 {
    let scaled = weight * f64::from(1 << PRECISION);
    (scaled + if weight < 0.0 { -0.5 } else { 0.5 }) as i32
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION).clamp(0, 255) as u8
}

fn horizontal(row: &[u8], windows: &[Window], out: &mut Vec<u8>) {
    for window in windows {
        let mut sum = [HALF; 3];
        let pixels = row[3 * window.start..].chunks_exact(3);
        for (coefficient, pixel) in window.coefficients.iter().zip(pixels) {
            for channel in 0..3 {
                sum[channel] += coefficient * i32::from(pixel[channel]);
            }
        }
        out.extend(sum.map(to_byte));
    }
}

fn vertical(pixels: &[u8], stride: usize, windows: &[Window]) -> Vec<u8> {
    let mut out = Vec::with_capacity(stride * windows.len());
    let mut sums = vec![0i32; stride];
    for window in windows {
        sums.fill(HALF);
        let rows = pixels[stride * window.start..].chunks_exact(stride);
        for (coefficient, row) in window.coefficients.iter().zip(rows) {
            for (sum, value) in sums.iter_mut().zip(row) {
                *sum += coefficient * i32::from(*value);
            }
        }
        out.extend(sums.iter().map(|sum| to_byte(*sum)));
    }
    out
}
