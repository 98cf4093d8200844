//! Small JPEG copies of pictures, for reports.

use std::path::Path;

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use perennial_plan::spec::Interpolation;

use crate::decode::{PictureError, read_picture};
use crate::error::DataError;
use crate::resize::resize;

const QUALITY: u8 = 85;

/// The picture at `path` as a JPEG file whose longer side has at most `max_side` pixels.
pub fn thumbnail_jpeg(path: &Path, max_side: u32, max_pixels: u64) -> Result<Vec<u8>, DataError> {
    let picture = read_picture(path, max_pixels)?;
    let longer = picture.width.max(picture.height);
    let shrunk = |side: u32| {
        let side = u64::from(side) * u64::from(max_side) / u64::from(longer);
        (side as u32).max(1)
    };
    let small = if longer > max_side {
        resize(
            &picture,
            shrunk(picture.width),
            shrunk(picture.height),
            Interpolation::Bicubic,
        )
    } else {
        picture
    };
    let mut jpeg = Vec::new();
    JpegEncoder::new_with_quality(&mut jpeg, QUALITY)
        .encode(
            &small.pixels,
            small.width,
            small.height,
            ExtendedColorType::Rgb8,
        )
        .map_err(|error| DataError::picture(path, PictureError::Broken(error.to_string())))?;
    Ok(jpeg)
}
