use std::path::{Path, PathBuf};

use perennial_data::decode::decode;
use perennial_data::{Picture, PictureError, read_picture, thumbnail_jpeg};

use crate::support::{noise, save, smooth, word};

const NO_LIMIT: u64 = 1 << 30;

fn pictures() -> Vec<PathBuf> {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/pictures");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let extension = path.extension().unwrap();
            extension != "rgb" && extension != "md"
        })
        .collect();
    paths.sort();
    assert!(paths.len() > 10);
    paths
}

fn expected(path: &Path) -> Option<Vec<u8>> {
    std::fs::read(format!("{}.rgb", path.display())).ok()
}

#[test]
fn every_mode_becomes_the_rgb_that_pillow_makes_of_it() {
    let mut compared = 0;
    for path in pictures() {
        let picture = read_picture(&path, NO_LIMIT).unwrap();
        assert_eq!((picture.width, picture.height), (32, 24));
        let Some(expected) = expected(&path) else {
            continue;
        };
        // JPEG leaves the inverse transform's rounding to the decoder.
        let allowed = if path.extension().unwrap() == "jpg" {
            3
        } else {
            0
        };
        let differences = picture.pixels.iter().zip(&expected);
        let largest = differences.map(|(a, b)| a.abs_diff(*b)).max().unwrap();
        assert!(largest <= allowed, "{}: {largest}", path.display());
        compared += 1;
    }
    assert_eq!(compared, 14);
}

#[test]
fn sixteen_bits_are_cut_to_the_high_byte() {
    let picture = read_picture(
        Path::new(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/pictures/g16.png"
        )),
        NO_LIMIT,
    )
    .unwrap();
    for (i, pixel) in picture.pixels.chunks_exact(3).enumerate() {
        let value = (i % 32) * 2000 + (i / 32) * 7;
        assert_eq!(pixel, [(value >> 8) as u8; 3]);
    }
}

#[test]
fn a_picture_cut_off_anywhere_is_refused() {
    for path in pictures() {
        let bytes = std::fs::read(&path).unwrap();
        for length in 0..bytes.len() {
            // What follows the pixels of a PNG, WebP or animated GIF is no loss.
            match decode(&bytes[..length], NO_LIMIT) {
                Err(_) => {}
                Ok(picture) => {
                    let name = path.display();
                    assert_ne!(path.extension().unwrap(), "jpg", "{name} at {length}");
                    assert_eq!(
                        picture,
                        decode(&bytes, NO_LIMIT).unwrap(),
                        "{name} at {length}"
                    );
                }
            }
        }
        let half = decode(&bytes[..bytes.len() / 2], NO_LIMIT);
        assert!(half.is_err(), "{}", path.display());
    }
}

#[test]
fn flipped_bits_and_garbage_never_panic() {
    for path in pictures() {
        let bytes = std::fs::read(&path).unwrap();
        for round in 0..400 {
            let mut broken = bytes.clone();
            for flip in 0..1 + round % 4 {
                let at = word("flip", round * 8 + flip) as usize % (8 * broken.len());
                broken[at / 8] ^= 1 << (at % 8);
            }
            let _ = decode(&broken, 1 << 22);
        }
        for round in 0..50 {
            let header = bytes.iter().copied().take(12);
            let garbage = (0..300).map(|i| (word("garbage", round * 300 + i) >> 56) as u8);
            let _ = decode(&header.chain(garbage).collect::<Vec<u8>>(), 1 << 22);
        }
    }
}

#[test]
fn what_is_no_picture_is_named_as_such() {
    assert_eq!(decode(b"", NO_LIMIT), Err(PictureError::Empty));
    let text = decode(b"this is a text that calls itself a picture", NO_LIMIT);
    assert_eq!(text, Err(PictureError::NotAPicture));
    let bitmap = decode(b"BM\x46\0\0\0\0\0\0\0\x36\0\0\0\x28\0\0\0", NO_LIMIT);
    assert_eq!(bitmap, Err(PictureError::NotAPicture));
}

#[test]
fn a_picture_with_too_many_pixels_is_refused_by_its_header() {
    // 60000 x 60000 in the header of a file of a few bytes.
    let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR".to_vec();
    png.extend(60_000u32.to_be_bytes());
    png.extend(60_000u32.to_be_bytes());
    png.extend([8, 2, 0, 0, 0]);
    let check = crc32fast::hash(&png[12..]);
    png.extend(check.to_be_bytes());
    png.extend(b"\0\0\0\x04IDAT\0\0\0\0");
    let check = crc32fast::hash(b"IDAT\0\0\0\0");
    png.extend(check.to_be_bytes());
    assert_eq!(
        decode(&png, 100_000_000),
        Err(PictureError::TooLarge {
            width: 60_000,
            height: 60_000,
            max_pixels: 100_000_000
        })
    );
}

#[test]
fn the_content_tells_the_format_and_errors_name_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let png = dir.path().join("a.png");
    save(&png, &noise(9, 7));
    let renamed = dir.path().join("a.jpg");
    std::fs::rename(&png, &renamed).unwrap();
    assert_eq!(read_picture(&renamed, NO_LIMIT).unwrap(), noise(9, 7));

    let missing = dir.path().join("missing.png");
    let error = read_picture(&missing, NO_LIMIT).unwrap_err().to_string();
    assert!(error.contains("missing.png"), "{error}");
    assert!(!error.contains('\n') && !error.ends_with('.'), "{error}");
}

#[test]
fn a_thumbnail_keeps_the_aspect_within_the_longest_side() {
    let picture = smooth(200, 50);
    let size = |max_side| {
        let jpeg = thumbnail_jpeg(&picture, max_side).unwrap();
        let Picture { width, height, .. } = decode(&jpeg, NO_LIMIT).unwrap();
        (width, height)
    };
    assert_eq!(size(64), (64, 16));
    assert_eq!(size(1), (1, 1));
    assert_eq!(size(1000), (200, 50));
}
