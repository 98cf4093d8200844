//! What happens to a picture on its way to the network. Everything random about a training picture is
//! drawn from its own stream, keyed by (seed, epoch, sample).

use std::sync::Arc;

use perennial_plan::random::Draw;
use perennial_plan::spec::{AugmentSpec, DataSpec, Interpolation};

use crate::decode::Picture;
use crate::resize::{Region, resize, resize_region};

/// Cutout as torchtoolbox's: shares of the area and height-to-width ratios, both uniform.
const CUTOUT_AREA: [f64; 2] = [0.02, 0.4];
const CUTOUT_RATIO: [f64; 2] = [0.4, 2.5];

/// The transforms of a job.
#[derive(Debug, Clone)]
pub struct Transform {
    size: u32,
    filter: Interpolation,
    augment: AugmentSpec,
    /// Normalised value of each byte, a channel: `(byte / 255 - mean) / std`.
    normalised: Arc<ByteValues>,
}

/// The value of each byte, a channel.
pub type ByteValues = [[f32; 256]; 3];

// === impl Transform ===

impl Transform {
    pub fn new(data: &DataSpec, augment: &AugmentSpec) -> Self {
        let mut normalised = [[0.0; 256]; 3];
        for (channel, values) in normalised.iter_mut().enumerate() {
            for (byte, value) in values.iter_mut().enumerate() {
                *value = (byte as f32 / 255.0 - data.mean[channel]) / data.std[channel];
            }
        }
        Self {
            size: data.image_size,
            filter: data.resize,
            augment: augment.clone(),
            normalised: Arc::new(normalised),
        }
    }

    /// Height and width of what comes out.
    pub fn size(&self) -> u32 {
        self.size
    }

    /// Whether training needs the whole decoded picture rather than the resized one.
    pub fn crops(&self) -> bool {
        self.augment.crop_scale.is_some()
    }

    /// The whole picture resized: what evaluation sees, and training without random crops starts from.
    pub fn resized(&self, picture: &Picture) -> Picture {
        resize(picture, self.size, self.size, self.filter)
    }

    /// A training picture, not yet normalised: random resized crop or plain resize, flips, Cutout.
    pub fn augmented(&self, picture: &Picture, random: &mut impl Draw) -> Picture {
        let mut out = match self.augment.crop_scale {
            Some(scale) => {
                let region = random_region(picture, scale, self.augment.crop_ratio, random);
                resize_region(picture, region, self.size, self.size, self.filter)
            }
            None => self.resized(picture),
        };
        if happens(self.augment.horizontal_flip, random) {
            flip_horizontally(&mut out);
        }
        if happens(self.augment.vertical_flip, random) {
            flip_vertically(&mut out);
        }
        if happens(self.augment.cutout, random) {
            cut_out(&mut out, random);
        }
        out
    }

    /// What [`Self::normalise`] makes of a byte.
    pub fn byte_values(&self) -> &Arc<ByteValues> {
        &self.normalised
    }

    /// Appends the normalised values of a picture, `[height, width, 3]`.
    pub fn normalise(&self, picture: &Picture, out: &mut Vec<f32>) {
        let [red, green, blue] = &*self.normalised;
        out.extend(picture.pixels.chunks_exact(3).flat_map(|pixel| {
            [
                red[usize::from(pixel[0])],
                green[usize::from(pixel[1])],
                blue[usize::from(pixel[2])],
            ]
        }));
    }
}

fn happens(probability: f64, random: &mut impl Draw) -> bool {
    probability > 0.0 && random.uniform() < probability
}

/// The region of timm's `RandomResizedCropAndInterpolation`: ten tries, then the largest centred region
/// with an allowed aspect.
fn random_region(
    picture: &Picture,
    scale: [f64; 2],
    ratio: [f64; 2],
    random: &mut impl Draw,
) -> Region {
    let (width, height) = (picture.width, picture.height);
    let area = f64::from(width) * f64::from(height);
    for _ in 0..10 {
        let target = area * random.uniform_in(scale[0], scale[1]);
        let aspect = random.uniform_in(ratio[0].ln(), ratio[1].ln()).exp();
        let crop_width = (target * aspect).sqrt().round_ties_even() as u32;
        let crop_height = (target / aspect).sqrt().round_ties_even() as u32;
        let fits = (1..=width).contains(&crop_width) && (1..=height).contains(&crop_height);
        if fits {
            let top = random.below(u64::from(height - crop_height) + 1) as u32;
            let left = random.below(u64::from(width - crop_width) + 1) as u32;
            return Region {
                left,
                top,
                width: crop_width,
                height: crop_height,
            };
        }
    }
    let aspect = f64::from(width) / f64::from(height);
    let (crop_width, crop_height) = if aspect < ratio[0] {
        let crop_height = (f64::from(width) / ratio[0]).round_ties_even() as u32;
        (width, crop_height.clamp(1, height))
    } else if aspect > ratio[1] {
        let crop_width = (f64::from(height) * ratio[1]).round_ties_even() as u32;
        (crop_width.clamp(1, width), height)
    } else {
        (width, height)
    };
    Region {
        left: (width - crop_width) / 2,
        top: (height - crop_height) / 2,
        width: crop_width,
        height: crop_height,
    }
}

fn flip_horizontally(picture: &mut Picture) {
    for row in picture.pixels.chunks_exact_mut(3 * picture.width as usize) {
        let (pixels, _) = row.as_chunks_mut::<3>();
        pixels.reverse();
    }
}

fn flip_vertically(picture: &mut Picture) {
    let stride = 3 * picture.width as usize;
    let height = picture.height as usize;
    let (top, bottom) = picture.pixels.split_at_mut(height.div_ceil(2) * stride);
    let mirrored = bottom.chunks_exact_mut(stride).rev();
    for (upper, lower) in top.chunks_exact_mut(stride).zip(mirrored) {
        upper.swap_with_slice(lower);
    }
}

/// Paints one random grey over one random rectangle. (torchtoolbox on a Pillow picture paints the red
/// channel alone and blackens the others; its array path and the paper treat the channels alike.)
fn cut_out(picture: &mut Picture, random: &mut impl Draw) {
    let (width, height) = (picture.width, picture.height);
    let share = random.uniform_in(CUTOUT_AREA[0], CUTOUT_AREA[1]);
    let area = share * f64::from(width) * f64::from(height);
    let ratio = random.uniform_in(CUTOUT_RATIO[0], CUTOUT_RATIO[1]);
    let cut_width = ((area / ratio).sqrt() as u32).min(width);
    let cut_height = ((area * ratio).sqrt() as u32).min(height);
    let left = random.below(u64::from(width - cut_width) + 1) as usize;
    let top = random.below(u64::from(height - cut_height) + 1) as usize;
    let value = random.below(256) as u8;
    let stride = 3 * width as usize;
    let rows = picture.pixels.chunks_exact_mut(stride);
    for row in rows.skip(top).take(cut_height as usize) {
        row[3 * left..3 * (left + cut_width as usize)].fill(value);
    }
}
