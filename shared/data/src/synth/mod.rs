//! Made-up plant seedlings on soil, drawn to try things on without a data set. A species differs by the
//! shape, number and arrangement of its leaves; colours, soil, light, size, age and rotation vary within
//! each species as much as between them.

mod leaf;
mod plant;
mod render;
mod soil;
mod species;

use std::fs;
use std::path::Path;

use image::{ExtendedColorType, ImageFormat};
use perennial_plan::random::{Domain, Stream};
use rayon::prelude::*;

use crate::copy::refuse_used;
use crate::decode::Picture;
use crate::error::DataError;

/// The most classes that [`synth`] can draw.
pub const MAX_CLASSES: usize = species::COUNT;

/// Draws `per_class` pictures of `size` x `size` pixels of each of `classes` species into
/// `dir/SPECIES/NNNN.png` and returns the species. The first twelve have leaves of their own; more are made
/// by giving them another arrangement. `dir` must be missing or empty. The pictures depend on
/// `seed` alone, and the first of a longer run are those of a shorter one.
pub fn synth(
    dir: &Path,
    classes: usize,
    per_class: usize,
    size: u32,
    seed: u64,
) -> Result<Vec<String>, DataError> {
    if !(1..=MAX_CLASSES).contains(&classes) {
        return Err(DataError::Classes {
            asked: classes,
            most: MAX_CLASSES,
        });
    }
    if !(16..=1024).contains(&size) {
        return Err(DataError::Size { asked: size });
    }
    refuse_used(dir)?;
    let names: Vec<String> = (0..classes).map(species::name).collect();
    for name in &names {
        let folder = dir.join(name);
        fs::create_dir_all(&folder).map_err(DataError::io("create", &folder))?;
    }
    (0..classes * per_class)
        .into_par_iter()
        .try_for_each(|place| {
            let (class, number) = (place / per_class, place % per_class);
            let picture = draw(class, number as u64, size, seed);
            let path = dir.join(&names[class]).join(format!("{number:04}.png"));
            write_png(&path, &picture)
        })?;
    Ok(names)
}

/// The `number`-th picture of species `class`.
///
/// # Panics
/// When `class` is not below [`MAX_CLASSES`].
pub fn draw(class: usize, number: u64, size: u32, seed: u64) -> Picture {
    assert!(class < MAX_CLASSES, "there is no species {class}");
    let mut random = Stream::new(seed, Domain::Synthetic, &[class as u64, number]);
    render::render(species::species(class), size, &mut random)
}

fn write_png(path: &Path, picture: &Picture) -> Result<(), DataError> {
    image::save_buffer_with_format(
        path,
        &picture.pixels,
        picture.width,
        picture.height,
        ExtendedColorType::Rgb8,
        ImageFormat::Png,
    )
    .map_err(|error| {
        let source = match error {
            image::ImageError::IoError(error) => error,
            other => std::io::Error::other(other),
        };
        DataError::io("write", path)(source)
    })
}
