//! One plant: its leaves, where they lie and how they are lit.

use std::f64::consts::{FRAC_PI_2, PI, TAU};

use perennial_plan::random::{Draw, Stream};

use super::leaf::Outline;
use super::species::{Arrangement, Species};

/// The half width of a stalk, in sides of the picture.
const STALK: f64 = 0.007;

/// A point or direction in the picture, in sides of the picture from its middle.
pub type Point = [f64; 2];
/// Red, green and blue, 0 to 255.
pub type Color = [f64; 3];

/// A leaf in its place.
#[derive(Debug, Clone)]
pub struct Leaf {
    outline: Outline,
    base: Point,
    /// Cosine and sine of its direction.
    along: Point,
    length: f64,
    stalk: f64,
    /// How far its axis has left a straight line at the tip, in lengths.
    bend: f64,
    /// Its height over the soil, in sides of the picture.
    pub height: f64,
    color: Color,
}

/// A point of a leaf, in the leaf's own coordinates.
#[derive(Debug, Clone, Copy)]
enum Spot {
    Stalk,
    Blade { u: f64, v: f64 },
}

// === impl Leaf ===

impl Leaf {
    fn spot(&self, point: Point) -> Option<Spot> {
        let (x, y) = (point[0] - self.base[0], point[1] - self.base[1]);
        let u = (x * self.along[0] + y * self.along[1]) / self.length;
        if !(0.0..=1.0).contains(&u) {
            return None;
        }
        let v = (y * self.along[0] - x * self.along[1]) / self.length - self.bend * u * u;
        if v.abs() > self.outline.reach().max(0.05) {
            return None;
        }
        if u < self.stalk {
            return (v.abs() * self.length < STALK).then_some(Spot::Stalk);
        }
        let blade = 1.0 - self.stalk;
        let (u, v) = ((u - self.stalk) / blade, v / blade);
        self.outline.covers(u, v).then_some(Spot::Blade { u, v })
    }

    /// False when nothing within `margin` of the point can be covered: it spares the exact test.
    pub fn is_near(&self, point: Point, margin: f64) -> bool {
        let margin = margin / self.length;
        let (x, y) = (point[0] - self.base[0], point[1] - self.base[1]);
        let u = (x * self.along[0] + y * self.along[1]) / self.length;
        let v = (y * self.along[0] - x * self.along[1]) / self.length - self.bend * u * u;
        let slack = margin * (1.0 + 2.0 * self.bend.abs() * (1.0 + margin));
        (-margin..=1.0 + margin).contains(&u) && v.abs() <= self.outline.reach().max(0.05) + slack
    }

    /// Whether it covers a point.
    pub fn covers(&self, point: Point) -> bool {
        self.spot(point).is_some()
    }

    /// Its colour at a point that it covers, lit from the direction `light`.
    pub fn color(&self, point: Point, light: Point) -> Option<Color> {
        let (brightness, pale) = match self.spot(point)? {
            Spot::Stalk => (0.95, 0.5),
            Spot::Blade { u, v } => {
                // The halves fold up along the rib, and the tip bends down.
                let across = self.along[0] * light[1] - self.along[1] * light[0];
                let toward = self.along[0] * light[0] + self.along[1] * light[1];
                let fold = 0.13 * across * v.signum() * (v.abs() * 14.0).min(1.0);
                let slope = 0.14 * toward * (2.0 * u - 1.0);
                (0.98 - fold + slope, 0.22 * self.outline.vein(u, v))
            }
        };
        Some([0, 1, 2].map(|channel| {
            let pale_green = [190.0, 205.0, 140.0][channel];
            self.color[channel] * brightness * (1.0 - pale) + pale_green * brightness * pale
        }))
    }
}

/// The leaves of a plant of `species`, the lowest first.
pub fn grow(species: Species, random: &mut Stream) -> Vec<Leaf> {
    let middle = [
        random.uniform_in(-0.07, 0.07),
        random.uniform_in(-0.07, 0.07),
    ];
    let turn = random.uniform_in(0.0, TAU);
    let size = random.uniform_in(0.85, 1.32);
    // From yellowish to bluish, from pale to dark: the same range for every species.
    let hue = random.uniform();
    let tone = random.uniform_in(0.78, 1.15);
    let green = [
        (112.0 - 52.0 * hue) * tone,
        (148.0 - 8.0 * hue) * tone,
        (46.0 + 40.0 * hue) * tone,
    ];
    let mut leaves = Vec::new();
    let mut add = |outline, angle: f64, length: f64, stalk, bend, random: &mut Stream| {
        let shade = random.uniform_in(0.9, 1.1);
        let (sin, cos) = angle.sin_cos();
        leaves.push(Leaf {
            outline,
            base: middle,
            along: [cos, sin],
            length: length * size,
            stalk,
            bend,
            height: 0.012 + 0.006 * leaves.len() as f64,
            color: green.map(|channel| channel * shade),
        });
    };

    let has_seed_leaves = random.uniform() < 0.75;
    if let Some(outline) = species.seed_leaf.filter(|_| has_seed_leaves) {
        let length = random.uniform_in(0.17, 0.24);
        for side in [0.0, PI] {
            let angle = turn + side + random.uniform_in(-0.15, 0.15);
            add(
                outline,
                angle,
                length,
                0.25,
                random.uniform_in(-0.08, 0.08),
                random,
            );
        }
    }

    let length = species.length;
    match species.arrangement {
        Arrangement::Tuft { least, most } => {
            let count = between(least, most, random);
            for blade in 0..count {
                let even = TAU * blade as f64 / count as f64;
                let angle = turn + even + random.uniform_in(-0.6, 0.6);
                let grown = length * random.uniform_in(0.65, 1.1);
                let bend = random.uniform_in(-0.32, 0.32);
                add(species.leaf, angle, grown, species.stalk, bend, random);
            }
        }
        Arrangement::Pairs { least, most } => {
            let count = between(least, most, random);
            for pair in 0..count {
                let grown = length * 0.8f64.powi(pair as i32) * random.uniform_in(0.85, 1.05);
                for side in [0.0, PI] {
                    let around = turn + FRAC_PI_2 * (pair + 1) as f64 + side;
                    let angle = around + random.uniform_in(-0.16, 0.16);
                    let own = grown * random.uniform_in(0.9, 1.08);
                    let bend = random.uniform_in(-0.1, 0.1);
                    add(species.leaf, angle, own, species.stalk, bend, random);
                }
            }
        }
        Arrangement::Rosette { least, most } => {
            let count = between(least, most, random);
            for leaf in 0..count {
                let golden = 2.399963 * leaf as f64;
                let angle = turn + FRAC_PI_2 + golden + random.uniform_in(-0.2, 0.2);
                let young = 1.0 - 0.45 * leaf as f64 / count as f64;
                let grown = length * young * random.uniform_in(0.9, 1.1);
                let bend = random.uniform_in(-0.12, 0.12);
                add(species.leaf, angle, grown, species.stalk, bend, random);
            }
        }
        Arrangement::Whorl { least, most } => {
            let count = between(least, most, random);
            for leaf in 0..count {
                let even = TAU * leaf as f64 / count as f64;
                let angle = turn + even + random.uniform_in(-0.09, 0.09);
                let grown = length * random.uniform_in(0.9, 1.06);
                let bend = random.uniform_in(-0.06, 0.06);
                add(species.leaf, angle, grown, species.stalk, bend, random);
            }
        }
    }
    leaves
}

fn between(least: u64, most: u64, random: &mut Stream) -> u64 {
    least + random.below(most - least + 1)
}
