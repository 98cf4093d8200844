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

/// One species of each arrangement: those that lend theirs to others' leaves.
const LENDERS: [usize; 4] = [0, 2, 6, 10];

/// How many species there are with the recombined ones.
pub const COUNT: usize = TABLE.len() * LENDERS.len();

/// The name of the species of a class.
pub fn name(class: usize) -> String {
    let (leaf, lender) = parents(class);
    match lender {
        None => TABLE[leaf].0.to_string(),
        Some(lender) => format!("{}_x_{}", TABLE[leaf].0, TABLE[lender].0),
    }
}

pub fn species(class: usize) -> Species {
    let (leaf, lender) = parents(class);
    Species {
        arrangement: TABLE[lender.unwrap_or(leaf)].1.arrangement,
        ..TABLE[leaf].1
    }
}

/// Which species has the leaves, and which lends another arrangement than theirs.
fn parents(class: usize) -> (usize, Option<usize>) {
    let (leaf, round) = (class % TABLE.len(), class / TABLE.len());
    if round == 0 {
        return (leaf, None);
    }
    let kind = |species: usize| std::mem::discriminant(&TABLE[species].1.arrangement);
    let own = LENDERS
        .iter()
        .position(|lender| kind(*lender) == kind(leaf))
        .expect("every arrangement has a lender");
    (leaf, Some(LENDERS[(own + round) % LENDERS.len()]))
}
