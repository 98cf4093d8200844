//! The ground: earth of several grains, with pebbles.

use perennial_plan::random::{Draw, Stream, mix};

use super::plant::{Color, Point};

/// One patch of ground.
#[derive(Debug, Clone)]
pub struct Soil {
    key: u64,
    earth: Color,
    contrast: f64,
    pebbles: Vec<Pebble>,
}

#[derive(Debug, Clone)]
struct Pebble {
    middle: Point,
    /// Half axes, and cosine and sine of the first one's direction.
    radii: Point,
    along: Point,
    color: Color,
}

// === impl Soil ===

impl Soil {
    pub fn new(random: &mut Stream) -> Self {
        let red = random.uniform_in(78.0, 142.0);
        let warm = random.uniform_in(0.66, 0.84);
        let earth = [red, red * warm, red * warm * random.uniform_in(0.62, 0.85)];
        let count = 8 + (220.0 * random.uniform().powi(2)) as u32;
        let coarse = random.uniform_in(0.6, 1.5);
        let pebbles = (0..count)
            .map(|_| {
                let radius = 0.008 * coarse / (1.0 - 0.85 * random.uniform()).powf(0.8);
                let grey = random.uniform_in(85.0, 185.0);
                let (sin, cos) = random.uniform_in(0.0, std::f64::consts::PI).sin_cos();
                Pebble {
                    middle: [
                        random.uniform_in(-0.52, 0.52),
                        random.uniform_in(-0.52, 0.52),
                    ],
                    radii: [radius, radius * random.uniform_in(0.55, 1.0)],
                    along: [cos, sin],
                    color: [
                        grey,
                        grey * random.uniform_in(0.86, 0.97),
                        grey * random.uniform_in(0.7, 0.92),
                    ],
                }
            })
            .collect();
        Self {
            key: random.next_u64(),
            earth,
            contrast: random.uniform_in(0.7, 1.3),
            pebbles,
        }
    }

    /// The colour of a point, lit from the direction `light`; `pixel` is a pixel's side.
    pub fn color(&self, point: Point, light: Point, pixel: f64) -> Color {
        let clods = self.noise(point, 9.0, 1) + 0.7 * self.noise(point, 23.0, 2);
        let grains = self.noise(point, 52.0, 3) + 0.8 * self.noise(point, 96.0, 4);
        let tone = 1.0 + self.contrast * (0.2 * clods + 0.26 * grains);
        let mut color = self.earth.map(|channel| channel * tone);
        for pebble in &self.pebbles {
            pebble.paint(&mut color, point, light, pixel, 1.0 + 0.12 * grains);
        }
        color
    }

    /// Value noise in -1..1 with `cells` cells a side.
    fn noise(&self, point: Point, cells: f64, layer: u64) -> f64 {
        let (x, y) = ((point[0] + 8.0) * cells, (point[1] + 8.0) * cells);
        let (column, row) = (x.floor(), y.floor());
        let smooth = |t: f64| t * t * (3.0 - 2.0 * t);
        let (right, down) = (smooth(x - column), smooth(y - row));
        let corner = |dx: f64, dy: f64| {
            let cell = ((column + dx) as u64) << 24 | (row + dy) as u64;
            (mix(self.key ^ mix(cell << 8 | layer)) >> 11) as f64 / (1u64 << 52) as f64 - 1.0
        };
        let blend = |a: f64, b: f64, t: f64| a + (b - a) * t;
        blend(
            blend(corner(0.0, 0.0), corner(1.0, 0.0), right),
            blend(corner(0.0, 1.0), corner(1.0, 1.0), right),
            down,
        )
    }
}

// === impl Pebble ===

impl Pebble {
    fn paint(&self, color: &mut Color, point: Point, light: Point, pixel: f64, grain: f64) {
        let (x, y) = (point[0] - self.middle[0], point[1] - self.middle[1]);
        let reach = 1.6 * self.radii[0] + pixel;
        if x.abs() > reach || y.abs() > reach {
            return;
        }
        let soft = 0.7 * pixel / self.radii[1];
        let shade = self.radii[1] * 0.45;
        let shadow = self.inside(x + light[0] * shade, y + light[1] * shade, soft);
        let body = self.inside(x, y, soft);
        let dome = (x * light[0] + y * light[1]) / self.radii[0];
        for (channel, stone) in color.iter_mut().zip(self.color) {
            let shaded = *channel * (1.0 - 0.45 * shadow);
            let stone = stone * grain * (0.92 + 0.28 * dome);
            *channel = shaded * (1.0 - body) + stone * body;
        }
    }

    /// 1 inside, 0 outside, between them over `soft` radii.
    fn inside(&self, x: f64, y: f64, soft: f64) -> f64 {
        let across = (x * self.along[0] + y * self.along[1]) / self.radii[0];
        let down = (y * self.along[0] - x * self.along[1]) / self.radii[1];
        (0.5 + (1.0 - across.hypot(down)) / soft).clamp(0.0, 1.0)
    }
}
