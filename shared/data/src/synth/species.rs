//! Twelve species that no botanist has seen.

use super::leaf::Outline;

/// How the leaves stand around the middle of a plant seen from above.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Arrangement {
    /// Blades in any direction, bent.
    Tuft { least: u64, most: u64 },
    /// Opposite pairs, each turned by a right angle against the one below.
    Pairs { least: u64, most: u64 },
    /// One after the other by the golden angle, the young ones smaller.
    Rosette { least: u64, most: u64 },
    /// Evenly in a ring.
    Whorl { least: u64, most: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Species {
    pub leaf: Outline,
    /// The two seed leaves under the others, where they are still there.
    pub seed_leaf: Option<Outline>,
    pub arrangement: Arrangement,
    /// Length of a full-grown leaf with its stalk, in sides of the picture.
    pub length: f64,
    /// The share of the length that is stalk.
    pub stalk: f64,
}

use Arrangement::{Pairs, Rosette, Tuft, Whorl};

const fn new(
    leaf: Outline,
    seed_leaf: Option<Outline>,
    arrangement: Arrangement,
    length: f64,
    stalk: f64,
) -> Species {
    Species {
        leaf,
        seed_leaf,
        arrangement,
        length,
        stalk,
    }
}

/// Names are in ascending order, as a folder lists them.
#[rustfmt::skip]
pub const TABLE: [(&str, Species); 12] = [
    ("Broad_Blade", new(Outline::Blade(0.085), None, Tuft { least: 2, most: 4 }, 0.46, 0.0)),
    ("Clover_Wing", new(Outline::Clover, Some(Outline::Strap), Rosette { least: 2, most: 4 }, 0.36, 0.35)),
    ("Comb_Fern", new(Outline::Feather, Some(Outline::Strap), Rosette { least: 3, most: 6 }, 0.40, 0.1)),
    ("Fan_Crane", new(Outline::Fan, Some(Outline::Heart), Rosette { least: 2, most: 4 }, 0.40, 0.45)),
    ("Hair_Tuft", new(Outline::Blade(0.02), None, Tuft { least: 4, most: 8 }, 0.44, 0.0)),
    ("Heart_Pair", new(Outline::Heart, None, Pairs { least: 1, most: 2 }, 0.33, 0.2)),
    ("Lance_Goose", new(Outline::Lance, Some(Outline::Strap), Pairs { least: 1, most: 3 }, 0.36, 0.15)),
    ("Lobed_Mustard", new(Outline::Lobed, Some(Outline::Heart), Pairs { least: 1, most: 2 }, 0.42, 0.1)),
    ("Spear_Grass", new(Outline::Blade(0.042), None, Tuft { least: 2, most: 4 }, 0.46, 0.0)),
    ("Spoon_Rosette", new(Outline::Spoon, Some(Outline::Strap), Rosette { least: 5, most: 9 }, 0.36, 0.0)),
    ("Star_Whorl", new(Outline::Petal, Some(Outline::Spoon), Whorl { least: 5, most: 8 }, 0.34, 0.0)),
    ("Wavy_Beet", new(Outline::Wavy, Some(Outline::Strap), Pairs { least: 1, most: 2 }, 0.40, 0.25)),
];

/// The name of the species of a class.
pub fn name(class: usize) -> String {
    let (leaf, arrangement) = parents(class);
    if leaf == arrangement {
        TABLE[leaf].0.to_string()
    } else {
        format!("{}_x_{}", TABLE[leaf].0, TABLE[arrangement].0)
    }
}

pub fn species(class: usize) -> Species {
    let (leaf, arrangement) = parents(class);
    Species {
        arrangement: TABLE[arrangement].1.arrangement,
        ..TABLE[leaf].1
    }
}

/// Which species lends the leaves, and which the arrangement.
fn parents(class: usize) -> (usize, usize) {
    let leaf = class % TABLE.len();
    (leaf, (leaf + class / TABLE.len()) % TABLE.len())
}
