//! Shapes of leaves. A leaf lies along the `u` axis from its base at 0 to its tip at 1; `v` runs across it,
//! in the same unit.

use std::f64::consts::PI;

/// The outline of a leaf blade.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outline {
    /// A grass blade of this half width.
    Blade(f64),
    /// Three round leaflets.
    Clover,
    /// Fine segments along both sides of a rib.
    Feather,
    /// Round, with seven lobes.
    Fan,
    /// Broad and notched at the tip.
    Heart,
    Lance,
    /// A large lobe at the tip, smaller ones along the rib.
    Lobed,
    /// Narrow, broadest near the tip.
    Petal,
    /// A round plate on a long thin base.
    Spoon,
    /// Of one narrow width, with a round end.
    Strap,
    /// Broad, with wavy edges.
    Wavy,
}

// === impl Outline ===

impl Outline {
    /// Whether the blade covers a point.
    pub fn covers(self, u: f64, v: f64) -> bool {
        if !(0.0..=1.0).contains(&u) {
            return false;
        }
        let across = v.abs();
        match self {
            Self::Blade(width) => across < width * (1.0 - u).powf(0.55) * (3.0 * u + 0.45).min(1.0),
            Self::Lance => across < 0.15 * (PI * u.powf(0.8)).sin(),
            Self::Petal => across < 0.13 * (PI * u.powf(1.6)).sin().max(0.0).powf(0.8),
            Self::Strap => across < 0.075 && (u < 0.92 || ellipse(u - 0.92, across, 0.08, 0.075)),
            Self::Wavy => {
                let wave = 1.0 + 0.09 * (21.0 * u).sin();
                across < 0.27 * (PI * u.powf(0.75)).sin().max(0.0).powf(0.8) * wave
            }
            Self::Spoon => across < 0.025 && u < 0.6 || ellipse(u - 0.74, across, 0.26, 0.19),
            Self::Heart => {
                ellipse(u - 0.64, across - 0.2, 0.3, 0.26)
                    || u < 0.64 && across < 0.46 * (u / 0.64).powf(0.8)
            }
            Self::Lobed => {
                across < 0.035 && u < 0.7
                    || ellipse(u - 0.74, across, 0.26, 0.23)
                    || ellipse(u - 0.42, across - 0.13, 0.085, 0.14)
                    || ellipse(u - 0.2, across - 0.09, 0.065, 0.1)
            }
            Self::Feather => {
                let reach = 0.24 * (PI * u.powf(0.85)).sin().max(0.0).powf(0.6);
                let strip = (7.0 * (u - 0.6 * across)).rem_euclid(1.0);
                across < 0.02 || across < reach && (strip - 0.5).abs() < 0.19
            }
            Self::Fan => {
                let (x, radius) = (u - 0.5, (u - 0.5).hypot(v));
                let angle = v.atan2(x);
                radius < 0.5 * (0.62 + 0.38 * (3.5 * angle).cos().abs().powf(0.6))
            }
            Self::Clover => [-1.25f64, 0.0, 1.25].iter().any(|turn| {
                let (sin, cos) = turn.sin_cos();
                let (x, y) = (u - 0.42, v);
                ellipse(x * cos + y * sin - 0.29, y * cos - x * sin, 0.28, 0.165)
            }),
        }
    }

    /// How far the blade reaches across at most.
    pub fn reach(self) -> f64 {
        match self {
            Self::Blade(width) => width,
            Self::Lance | Self::Petal | Self::Strap => 0.16,
            Self::Wavy | Self::Lobed | Self::Feather | Self::Spoon => 0.3,
            Self::Heart | Self::Fan => 0.5,
            Self::Clover => 0.62,
        }
    }

    /// Brightness added by the veins at a point of the blade, 0 to 1.
    pub fn vein(self, u: f64, v: f64) -> f64 {
        let rib = 1.0 - (v.abs() / 0.018).min(1.0);
        match self {
            Self::Blade(width) => 0.5 * rib + 0.5 * (v / width * 9.0).cos().max(0.0) * 0.5,
            Self::Clover | Self::Feather => 0.4 * rib,
            Self::Fan => {
                let angle = v.atan2(u - 0.1);
                rib.max((1.0 - ((7.0 * angle).sin().abs() * 6.0).min(1.0)) * 0.7)
            }
            _ => {
                let side = (9.0 * (u - 0.7 * v.abs())).rem_euclid(1.0);
                rib.max((1.0 - ((side - 0.5).abs() * 14.0).min(1.0)) * 0.6)
            }
        }
    }
}

fn ellipse(x: f64, y: f64, radius_x: f64, radius_y: f64) -> bool {
    (x / radius_x).powi(2) + (y / radius_y).powi(2) < 1.0
}
