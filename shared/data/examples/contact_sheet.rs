//! Draws a few made-up seedlings of each species side by side: `contact_sheet OUT.png [SIZE] [CLASSES]`.

use perennial_data::Picture;
use perennial_data::synth::draw;

const A_ROW: u64 = 10;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let out = arguments.next().ok_or("which file to write?")?;
    let size: u32 = arguments.next().map_or(Ok(96), |size| size.parse())?;
    let classes: usize = arguments.next().map_or(Ok(12), |count| count.parse())?;

    let (width, height) = (A_ROW as u32 * size, classes as u32 * size);
    let mut sheet = image::RgbImage::new(width, height);
    for class in 0..classes {
        for number in 0..A_ROW {
            let Picture { pixels, .. } = draw(class, number, size, 0);
            let picture =
                image::RgbImage::from_raw(size, size, pixels).ok_or("three bytes a pixel")?;
            let (x, y) = (
                i64::from(size) * number as i64,
                i64::from(size) * class as i64,
            );
            image::imageops::replace(&mut sheet, &picture, x, y);
        }
    }
    sheet.save(out)?;
    Ok(())
}
