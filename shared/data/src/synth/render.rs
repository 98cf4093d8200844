//! From a plant and its soil to pixels, each the mean of nine points.

use perennial_plan::random::{Draw, Stream};

use super::plant::{Color, Leaf, Point, grow};
use super::soil::Soil;
use super::species::Species;
use crate::decode::Picture;

/// Points a pixel in each direction.
const POINTS: u32 = 3;
/// A shadow's edge is soft: it is cast twice, over these shares of its length.
const HALF_SHADOW: f64 = 0.8;
const FULL_SHADOW: f64 = 1.2;

/// A picture of one plant, `size` x `size`.
pub fn render(species: Species, size: u32, random: &mut Stream) -> Picture {
    let soil = Soil::new(random);
    let leaves = grow(species, random);
    let (sin, cos) = random.uniform_in(0.0, std::f64::consts::TAU).sin_cos();
    let scene = Scene {
        leaves,
        light: [cos, sin],
        shadow: random.uniform_in(0.6, 2.2),
        darkness: random.uniform_in(0.3, 0.6),
    };
    let exposure = random.uniform_in(0.85, 1.15);
    let noise = random.uniform_in(1.0, 5.0);

    let pixel = 1.0 / f64::from(size);
    let mut pixels = Vec::with_capacity(3 * (size * size) as usize);
    let mut near = Vec::new();
    for row in 0..size {
        for column in 0..size {
            let at = |x: f64, y: f64| [x * pixel - 0.5, y * pixel - 0.5];
            let (x, y) = (f64::from(column), f64::from(row));
            let middle = at(x + 0.5, y + 0.5);
            let ground = soil.color(middle, scene.light, pixel);
            near.clear();
            near.extend(scene.leaves.iter().filter(|leaf| {
                let fall = FULL_SHADOW * scene.shadow * leaf.height;
                leaf.is_near(middle, pixel + fall)
            }));
            let mut sum = [0.0; 3];
            for point in 0..POINTS * POINTS {
                let offset = |step: u32| (f64::from(step) + 0.5) / f64::from(POINTS);
                let point = at(x + offset(point % POINTS), y + offset(point / POINTS));
                let color = scene.color(&near, point, ground);
                for channel in 0..3 {
                    sum[channel] += color[channel];
                }
            }
            let grain = noise * (random.uniform() + random.uniform() - 1.0);
            let tint = f64::from(POINTS * POINTS);
            pixels.extend(sum.map(|channel| (channel / tint * exposure + grain).round() as u8));
        }
    }
    Picture {
        width: size,
        height: size,
        pixels,
    }
}

struct Scene {
    leaves: Vec<Leaf>,
    /// The direction towards the light.
    light: Point,
    /// How far a shadow falls, in heights.
    shadow: f64,
    darkness: f64,
}

// === impl Scene ===

impl Scene {
    /// The colour of a point whose soil has the colour `ground`, among the leaves that are `near`.
    fn color(&self, near: &[&Leaf], point: Point, ground: Color) -> Color {
        for (place, leaf) in near.iter().enumerate().rev() {
            if let Some(color) = leaf.color(point, self.light) {
                let lit = self.lit(point, leaf.height, &near[place + 1..]);
                return color.map(|channel| channel * lit);
            }
        }
        let lit = self.lit(point, 0.0, near);
        ground.map(|channel| channel * lit)
    }

    /// The light that reaches `height` over a point past `above`: half shadow, then full shadow.
    fn lit(&self, point: Point, height: f64, above: &[&Leaf]) -> f64 {
        let covered = |softness: f64| {
            above.iter().any(|leaf| {
                let fall = (leaf.height - height) * self.shadow * softness;
                leaf.covers([
                    point[0] + self.light[0] * fall,
                    point[1] + self.light[1] * fall,
                ])
            })
        };
        let half = self.darkness / 2.0;
        1.0 - half * f64::from(u8::from(covered(HALF_SHADOW)))
            - half * f64::from(u8::from(covered(FULL_SHADOW)))
    }
}
