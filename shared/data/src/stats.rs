//! Per-channel mean and standard deviation of a data set, of values in 0..1.

use rayon::prelude::*;
use serde::Serialize;

use crate::data_set::{DataSet, Sample};
use crate::decode::Picture;
use crate::error::DataError;

/// Both ways of taking the statistics of a data set. Every sum has a fixed order.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MeanStd {
    /// Over all pixels of all pictures: what normalisation to mean 0 and deviation 1 needs.
    pub pooled_mean: [f64; 3],
    /// Divided by the number of pixels.
    pub pooled_std: [f64; 3],
    /// The mean over pictures of each picture's own mean.
    pub mean_of_means: [f64; 3],
    /// The mean over pictures of each picture's own standard deviation (divided by its pixels less one).
    pub mean_of_stds: [f64; 3],
    pub pictures: usize,
}

/// Number, sum and sum of squares of the bytes of each channel: exact.
#[derive(Debug, Clone, Copy)]
struct Sums {
    pixels: u64,
    sum: [u64; 3],
    squares: [u64; 3],
}

/// Pictures whose files are read at once.
const PORTION: usize = 64;

/// Statistics of `samples`, decoded on all cores; a picture that cannot be used is an error.
pub fn mean_std(data: &DataSet, samples: &[Sample], max_pixels: u64) -> Result<MeanStd, DataError> {
    let mut found: Vec<Sums> = Vec::with_capacity(samples.len());
    for portion in samples.chunks(PORTION) {
        let files = data.read_all(portion);
        let portion: Vec<Sums> = (portion.par_iter().zip(files))
            .map(|(sample, file)| Ok(sums(&data.decoded(sample, &file?, max_pixels)?)))
            .collect::<Result<_, DataError>>()?;
        found.extend(portion);
    }
    Ok(combine(&found))
}

/// The same of pictures in memory.
pub fn mean_std_of<'a>(pictures: impl IntoIterator<Item = &'a Picture>) -> MeanStd {
    let sums: Vec<Sums> = pictures.into_iter().map(sums).collect();
    combine(&sums)
}

fn sums(picture: &Picture) -> Sums {
    let mut sums = Sums {
        pixels: u64::from(picture.width) * u64::from(picture.height),
        sum: [0; 3],
        squares: [0; 3],
    };
    for pixel in picture.pixels.chunks_exact(3) {
        for (channel, value) in pixel.iter().enumerate() {
            let value = u64::from(*value);
            sums.sum[channel] += value;
            sums.squares[channel] += value * value;
        }
    }
    sums
}

fn combine(pictures: &[Sums]) -> MeanStd {
    let channels = [0, 1, 2];
    let count = pictures.len().max(1) as f64;
    let total = |part: &dyn Fn(&Sums) -> u64| pictures.iter().map(|p| u128::from(part(p))).sum();
    let pixels: u128 = total(&|p| p.pixels);
    MeanStd {
        pooled_mean: channels.map(|c| mean(total(&|p| p.sum[c]), pixels)),
        pooled_std: channels.map(|c| {
            deviation(
                total(&|p| p.sum[c]),
                total(&|p| p.squares[c]),
                pixels,
                pixels,
            )
        }),
        mean_of_means: channels.map(|c| {
            let means = pictures
                .iter()
                .map(|p| mean(u128::from(p.sum[c]), u128::from(p.pixels)));
            means.sum::<f64>() / count
        }),
        mean_of_stds: channels.map(|c| {
            let deviations = pictures.iter().map(|p| {
                let pixels = u128::from(p.pixels);
                deviation(
                    u128::from(p.sum[c]),
                    u128::from(p.squares[c]),
                    pixels,
                    pixels.saturating_sub(1),
                )
            });
            deviations.sum::<f64>() / count
        }),
        pictures: pictures.len(),
    }
}

fn mean(sum: u128, pixels: u128) -> f64 {
    sum as f64 / pixels.max(1) as f64 / 255.0
}

/// From exact integer sums, so nothing cancels: `n * squares - sum^2` is `n^2` times the variance.
fn deviation(sum: u128, squares: u128, pixels: u128, divisor: u128) -> f64 {
    if divisor == 0 {
        return 0.0;
    }
    let scaled = pixels * squares - sum * sum;
    (scaled as f64 / pixels as f64 / divisor as f64).sqrt() / 255.0
}
