use std::path::Path;

use perennial_data::{DataSet, Picture, Side};
use perennial_plan::random::{mix, name_hash};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// A file of reference numbers, where they are at hand.
pub fn fixture(name: &str) -> Option<Value> {
    let dir = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../../shared/fixtures/utils/"
    );
    let text = std::fs::read(format!("{dir}{name}.json")).ok()?;
    Some(serde_json::from_slice(&text).unwrap())
}

pub fn cases<'a>(fixture: &'a Value, key: &str) -> &'a [Value] {
    fixture[key].as_array().unwrap()
}

pub fn floats(value: &Value) -> Vec<f64> {
    let numbers = value.as_array().unwrap().iter();
    numbers.map(|n| n.as_f64().unwrap()).collect()
}

/// The `index`-th pseudo-random word of `name`.
pub fn word(name: &str, index: usize) -> u64 {
    mix(name_hash(name).wrapping_add(index as u64))
}

/// The `index`-th pseudo-random number of `name`, in -1..1.
pub fn unit(name: &str, index: usize) -> f64 {
    (word(name, index) >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0
}

pub fn sha256(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn noise(width: u32, height: u32) -> Picture {
    let bytes = 0..(width * height * 3) as usize;
    Picture {
        width,
        height,
        pixels: bytes.map(|i| (word("image", i) >> 56) as u8).collect(),
    }
}

pub fn smooth(width: u32, height: u32) -> Picture {
    let mut pixels = Vec::new();
    for y in 0..height {
        for x in 0..width {
            for channel in 0..3 {
                let t = (3 * x + 5 * y + 64 * channel) % 510;
                pixels.push(t.min(510 - t) as u8);
            }
        }
    }
    Picture {
        width,
        height,
        pixels,
    }
}

/// Writes a picture in the format of the file's extension.
pub fn save(path: &Path, picture: &Picture) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    image::save_buffer(
        path,
        &picture.pixels,
        picture.width,
        picture.height,
        image::ExtendedColorType::Rgb8,
    )
    .unwrap();
}

/// The names of a side's pictures, in order.
pub fn relatives(data: &DataSet, side: Side) -> Vec<String> {
    let samples = data.side(side).iter();
    samples
        .map(|sample| data.relative(sample).unwrap())
        .collect()
}

/// A folder of `per_class` small noise pictures a class, each different.
pub fn picture_folder(dir: &Path, classes: &[&str], per_class: u32) {
    for (number, class) in classes.iter().enumerate() {
        for picture in 0..per_class {
            let side = 36 + picture % 3 + number as u32;
            let path = dir.join(class).join(format!("{picture:03}.png"));
            save(&path, &noise(side, 40));
        }
    }
}
