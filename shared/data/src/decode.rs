//! Bytes of a picture file to RGB, as Pillow's `Image.open(...).convert("RGB")`: the first frame, alpha
//! dropped, EXIF orientation not applied, 16-bit channels cut to their high byte.

use std::io::Cursor;
use std::path::Path;

use image::{DynamicImage, ImageFormat, ImageReader, Limits};

use crate::error::DataError;

/// A decoded picture: `[height, width, 3]` bytes, row by row, red green blue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Picture {
    pub width: u32,
    pub height: u32,
    pub pixels: Vec<u8>,
}

/// What is wrong with a picture file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PictureError {
    #[error("it cannot be read: {0}")]
    Unreadable(String),
    #[error("the file is empty")]
    Empty,
    #[error("it is not a JPEG, PNG, WebP or GIF picture")]
    NotAPicture,
    #[error("the file is cut off")]
    Truncated,
    #[error(
        "it has {width}x{height} pixels, more than the {max_pixels} that `data.max_pixels` allows"
    )]
    TooLarge {
        width: u32,
        height: u32,
        max_pixels: u64,
    },
    #[error("it is broken: {0}")]
    Broken(String),
    /// As it was found when the picture was packed.
    #[error("{0}")]
    Recorded(String),
}

/// Reads and decodes the file at `path`; a picture of more than `max_pixels` is refused by its header.
pub fn read_picture(path: &Path, max_pixels: u64) -> Result<Picture, DataError> {
    let bytes = read_file(path)?;
    decode(&bytes, max_pixels).map_err(|error| DataError::picture(path, error))
}

pub(crate) fn read_file(path: &Path) -> Result<Vec<u8>, DataError> {
    std::fs::read(path)
        .map_err(|error| DataError::picture(path, PictureError::Unreadable(error.to_string())))
}

/// Decodes the bytes of a file. The format is told by the content, never by the file's name.
pub fn decode(bytes: &[u8], max_pixels: u64) -> Result<Picture, PictureError> {
    if bytes.is_empty() {
        return Err(PictureError::Empty);
    }
    let format = image::guess_format(bytes).map_err(|_| PictureError::NotAPicture)?;
    let supported = [
        ImageFormat::Jpeg,
        ImageFormat::Png,
        ImageFormat::WebP,
        ImageFormat::Gif,
    ];
    if !supported.contains(&format) {
        return Err(PictureError::NotAPicture);
    }

    let (width, height) = ImageReader::with_format(Cursor::new(bytes), format)
        .into_dimensions()
        .map_err(problem)?;
    let pixels = u64::from(width) * u64::from(height);
    if pixels > max_pixels {
        return Err(PictureError::TooLarge {
            width,
            height,
            max_pixels,
        });
    }
    if pixels == 0 {
        return Err(PictureError::Broken("it has no pixels".into()));
    }
    // The JPEG decoder fills what is missing with grey instead of refusing the file.
    if format == ImageFormat::Jpeg && !jpeg_is_complete(bytes) {
        return Err(PictureError::Truncated);
    }

    let mut reader = ImageReader::with_format(Cursor::new(bytes), format);
    let mut limits = Limits::no_limits();
    // 16-bit RGBA, the decoder's own copy of it, and what small pictures need besides.
    limits.max_alloc = Some(pixels.saturating_mul(16).saturating_add(64 << 20));
    reader.limits(limits);
    let decoded = reader.decode().map_err(problem)?;
    Ok(Picture {
        width: decoded.width(),
        height: decoded.height(),
        pixels: to_rgb(decoded),
    })
}

fn problem(error: image::ImageError) -> PictureError {
    let cut_off = |error: &std::io::Error| error.kind() == std::io::ErrorKind::UnexpectedEof;
    if let image::ImageError::IoError(error) = &error
        && cut_off(error)
    {
        return PictureError::Truncated;
    }
    let mut source = std::error::Error::source(&error);
    while let Some(inner) = source {
        if inner.downcast_ref::<std::io::Error>().is_some_and(cut_off) {
            return PictureError::Truncated;
        }
        source = inner.source();
    }
    PictureError::Broken(error.to_string().trim_end_matches('.').to_string())
}

fn to_rgb(decoded: DynamicImage) -> Vec<u8> {
    fn high(value: &u16) -> u8 {
        (value >> 8) as u8
    }
    match decoded {
        DynamicImage::ImageRgb8(picture) => picture.into_raw(),
        DynamicImage::ImageRgba8(picture) => without_last::<4, _>(picture.as_raw(), |v| *v),
        DynamicImage::ImageLuma8(picture) => grey::<1, _>(picture.as_raw(), |v| *v),
        DynamicImage::ImageLumaA8(picture) => grey::<2, _>(picture.as_raw(), |v| *v),
        DynamicImage::ImageRgb16(picture) => picture.as_raw().iter().map(high).collect(),
        DynamicImage::ImageRgba16(picture) => without_last::<4, _>(picture.as_raw(), high),
        DynamicImage::ImageLuma16(picture) => grey::<1, _>(picture.as_raw(), high),
        DynamicImage::ImageLumaA16(picture) => grey::<2, _>(picture.as_raw(), high),
        other => other.into_rgb8().into_raw(),
    }
}

fn without_last<const CHANNELS: usize, T>(values: &[T], byte: impl Fn(&T) -> u8) -> Vec<u8> {
    values
        .chunks_exact(CHANNELS)
        .flat_map(|pixel| pixel[..CHANNELS - 1].iter().map(&byte))
        .collect()
}

/// The first of `CHANNELS` values of each pixel, three times.
fn grey<const CHANNELS: usize, T>(values: &[T], byte: impl Fn(&T) -> u8) -> Vec<u8> {
    values
        .chunks_exact(CHANNELS)
        .flat_map(|pixel| [byte(&pixel[0]); 3])
        .collect()
}

/// Whether the markers of a JPEG file lead to its end-of-image marker.
fn jpeg_is_complete(bytes: &[u8]) -> bool {
    const START_OF_SCAN: u8 = 0xda;
    const END_OF_IMAGE: u8 = 0xd9;
    let mut at = 2;
    let mut in_scan = false;
    while let (Some(&first), Some(&marker)) = (bytes.get(at), bytes.get(at + 1)) {
        let is_data = first != 0xff || marker == 0x00 || (0xd0..=0xd7).contains(&marker);
        match marker {
            _ if is_data && in_scan => at += if first == 0xff { 2 } else { 1 },
            // Stray bytes and fill bytes between segments.
            _ if first != 0xff || marker == 0xff => at += 1,
            END_OF_IMAGE => return true,
            0x00 | 0x01 | 0xd0..=0xd8 => at += 2,
            _ => {
                let Some(length) = bytes.get(at + 2..at + 4) else {
                    return false;
                };
                at += 2 + usize::from(u16::from_be_bytes([length[0], length[1]]));
                in_scan = marker == START_OF_SCAN;
            }
        }
    }
    false
}
