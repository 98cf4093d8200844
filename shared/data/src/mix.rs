//! MixUp (Zhang et al., 2018) and CutMix (Yun et al., 2019) inside one slot, as timm 1.0.31's `Mixup` in
//! batch mode: one lambda a slot, sample `i` of `n` is mixed with sample `n - 1 - i`.

use perennial_plan::random::Draw;
use perennial_plan::spec::MixSpec;

/// A rectangle of pixels: `top..bottom` by `left..right`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Patch {
    pub top: usize,
    pub bottom: usize,
    pub left: usize,
    pub right: usize,
}

// === impl Patch ===

impl Patch {
    /// CutMix's patch around a centre: it covers `1 - lam` of the picture before it is clipped.
    pub fn around(center_y: usize, center_x: usize, lam: f64, height: usize, width: usize) -> Self {
        let ratio = (1.0 - lam).sqrt();
        let (top, bottom) = clipped(center_y, (height as f64 * ratio) as usize, height);
        let (left, right) = clipped(center_x, (width as f64 * ratio) as usize, width);
        Self {
            top,
            bottom,
            left,
            right,
        }
    }

    /// The share of a picture that it leaves alone.
    pub fn share_outside(&self, height: usize, width: usize) -> f64 {
        let area = (self.bottom - self.top) * (self.right - self.left);
        1.0 - area as f64 / (height * width) as f64
    }
}

/// `length` pixels around `center`, clipped to `0..bound`; an odd pixel goes to the end.
fn clipped(center: usize, length: usize, bound: usize) -> (usize, usize) {
    (
        center.saturating_sub(length / 2),
        (center + length.div_ceil(2)).min(bound),
    )
}

/// What was drawn for one slot.
#[derive(Debug, Clone, PartialEq)]
pub struct MixPlan {
    /// Lambda as drawn; 1 when the slot is not mixed.
    pub sampled_lam: f64,
    /// The weight of a sample's own label, corrected to the patch where that is asked for.
    pub lam: f64,
    /// CutMix's patch; none: MixUp, or nothing when `lam` is 1.
    pub patch: Option<Patch>,
}

// === impl MixPlan ===

impl MixPlan {
    /// What a picture and its partner are multiplied by where they are blended.
    pub fn shares(&self) -> [f32; 2] {
        [self.sampled_lam as f32, (1.0 - self.sampled_lam) as f32]
    }
}

/// Mixes slots as a job's `[mix]` says.
#[derive(Debug, Clone)]
pub struct Mixer {
    spec: MixSpec,
    cutmix_alpha: f64,
    classes: usize,
}

// === impl Mixer ===

impl Mixer {
    pub fn new(spec: &MixSpec, classes: usize) -> Self {
        Self {
            // As in timm, a given patch size turns CutMix on.
            cutmix_alpha: if spec.cutmix_minmax.is_some() {
                1.0
            } else {
                spec.cutmix_alpha
            },
            spec: spec.clone(),
            classes,
        }
    }

    /// Draws for one slot of `height` x `width` pictures, in timm's order: mixed at all, which of the two,
    /// lambda, patch. Nothing is drawn when neither is on.
    pub fn draw(&self, random: &mut impl Draw, height: usize, width: usize) -> MixPlan {
        let unmixed = MixPlan {
            sampled_lam: 1.0,
            lam: 1.0,
            patch: None,
        };
        let (mixup, cutmix) = (self.spec.mixup_alpha > 0.0, self.cutmix_alpha > 0.0);
        if !(mixup || cutmix) || random.uniform() >= self.spec.prob {
            return unmixed;
        }
        let use_cutmix = if mixup && cutmix {
            random.uniform() < self.spec.switch_prob
        } else {
            cutmix
        };
        let alpha = if use_cutmix {
            self.cutmix_alpha
        } else {
            self.spec.mixup_alpha
        };
        let sampled_lam = random.beta(alpha, alpha);
        if sampled_lam == 1.0 {
            return unmixed;
        }
        if !use_cutmix {
            return MixPlan {
                sampled_lam,
                lam: sampled_lam,
                patch: None,
            };
        }
        let patch = match self.spec.cutmix_minmax {
            Some(minmax) => sized_patch(random, minmax, height, width),
            None => {
                let center_y = random.below(height as u64) as usize;
                let center_x = random.below(width as u64) as usize;
                Patch::around(center_y, center_x, sampled_lam, height, width)
            }
        };
        let corrected = self.spec.correct_lam || self.spec.cutmix_minmax.is_some();
        MixPlan {
            sampled_lam,
            lam: if corrected {
                patch.share_outside(height, width)
            } else {
                sampled_lam
            },
            patch: Some(patch),
        }
    }

    /// Mixes `images` (`[n, height, width, 3]`) in place and returns the targets (`[n, classes]`) of
    /// `labels` (`[n]`). The middle one of an odd number is its own partner and stays as it is.
    pub fn apply(
        &self,
        plan: &MixPlan,
        images: &mut [f32],
        width: usize,
        labels: &[u32],
    ) -> Vec<f32> {
        let samples = labels.len();
        if plan.sampled_lam < 1.0 && samples > 0 {
            let size = images.len() / samples;
            let (front, back) = images.split_at_mut(samples.div_ceil(2) * size);
            let partners = back.chunks_exact_mut(size).rev();
            for (one, other) in front.chunks_exact_mut(size).zip(partners) {
                match &plan.patch {
                    Some(patch) => swap_patch(one, other, patch, width),
                    None => blend(one, other, plan.shares()),
                }
            }
        }
        self.targets(plan, labels)
    }

    /// The targets of a slot alone.
    pub(crate) fn targets(&self, plan: &MixPlan, labels: &[u32]) -> Vec<f32> {
        let off = self.spec.label_smoothing / self.classes as f64;
        let on = 1.0 - self.spec.label_smoothing + off;
        let (off, on) = (off as f32, on as f32);
        let (own, other) = (plan.lam as f32, (1.0 - plan.lam) as f32);
        let mut targets = Vec::with_capacity(labels.len() * self.classes);
        for (label, partner) in labels.iter().zip(labels.iter().rev()) {
            targets.extend((0..self.classes as u32).map(|class| {
                let first = if class == *label { on } else { off };
                let second = if class == *partner { on } else { off };
                first * own + second * other
            }));
        }
        targets
    }
}

/// A patch whose sides are drawn between two shares of the picture's, anywhere inside of it.
fn sized_patch(random: &mut impl Draw, minmax: [f64; 2], height: usize, width: usize) -> Patch {
    let mut side = |bound: usize| {
        let low = (bound as f64 * minmax[0]) as usize;
        let high = (bound as f64 * minmax[1]) as usize;
        low + random.below((high - low).max(1) as u64) as usize
    };
    let (cut_height, cut_width) = (side(height), side(width));
    let top = random.below((height - cut_height + 1) as u64) as usize;
    let left = random.below((width - cut_width + 1) as u64) as usize;
    Patch {
        top,
        bottom: top + cut_height,
        left,
        right: left + cut_width,
    }
}

fn blend(one: &mut [f32], other: &mut [f32], [own, rest]: [f32; 2]) {
    for (a, b) in one.iter_mut().zip(other) {
        (*a, *b) = (*a * own + *b * rest, *b * own + *a * rest);
    }
}

fn swap_patch(one: &mut [f32], other: &mut [f32], patch: &Patch, width: usize) {
    for row in patch.top..patch.bottom {
        let pixels = 3 * (row * width + patch.left)..3 * (row * width + patch.right);
        one[pixels.clone()].swap_with_slice(&mut other[pixels]);
    }
}
