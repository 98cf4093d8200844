//! Small JPEG copies of pictures, for reports.

use image::ExtendedColorType;
use image::codecs::jpeg::JpegEncoder;
use perennial_plan::spec::Interpolation;

use crate::decode::{Picture, PictureError};
use crate::resize::resize;

const QUALITY: u8 = 85;

/// The picture as a JPEG file whose longer side has at most `max_side` pixels.
pub fn thumbnail_jpeg(picture: &Picture, max_side: u32) -> Result<Vec<u8>, PictureError> {
    let longer = picture.width.max(picture.height);
    let shrunk = |side: u32| {
        let side = u64::from(side) * u64::from(max_side) / u64::from(longer);
        (side as u32).max(1)
    };
    let shrunken;
    let small = if longer > max_side {
        let (width, height) = (shrunk(picture.width), shrunk(picture.height));
        shrunken = resize(picture, width, height, Interpolation::Bicubic);
        &shrunken
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
        .map_err(|error| PictureError::Broken(error.to_string()))?;
    Ok(jpeg)
}
