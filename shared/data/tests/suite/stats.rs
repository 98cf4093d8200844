use perennial_data::stats::{mean_std, mean_std_of};
use perennial_data::{DataSet, Picture};
use perennial_plan::spec::DataSpec;

use crate::support::{fixture, floats, noise, save, word};

fn close(found: &[f64; 3], expected: &[f64]) {
    for (found, expected) in found.iter().zip(expected) {
        assert!((found - expected).abs() < 1e-13, "{found} {expected}");
    }
}

#[test]
fn both_ways_of_mean_and_deviation_are_the_references() {
    let pictures: Vec<Picture> = (0..5)
        .map(|k| {
            let (width, height) = (20 + 3 * k, 15 + 2 * k);
            let bytes = 0..(width * height * 3) as usize;
            let value = |i: usize| {
                let noise = word(&format!("stat{k}"), i) >> 56;
                (noise * u64::from(55 + 40 * k) / 255) as u8 + 5 * (i % 3) as u8
            };
            Picture {
                width,
                height,
                pixels: bytes.map(value).collect(),
            }
        })
        .collect();
    let found = mean_std_of(&pictures);
    close(
        &found.mean_of_means,
        &[0.2630972737475242, 0.28072504535324827, 0.2991612147732162],
    );
    close(
        &found.mean_of_stds,
        &[
            0.15400936229290627,
            0.15545525232675553,
            0.15161915664076261,
        ],
    );
    let Some(fixture) = fixture("mean_std") else {
        return;
    };
    close(
        &found.mean_of_means,
        &floats(&fixture["f64"]["mean_of_means"]),
    );
    close(
        &found.mean_of_stds,
        &floats(&fixture["f64"]["mean_of_stds"]),
    );
    let pooled = &fixture["for_contrast_f64"];
    close(&found.pooled_mean, &floats(&pooled["pooled_mean"]));
    let pixels: f64 = pictures.iter().map(|p| f64::from(p.width * p.height)).sum();
    let biased = floats(&pooled["pooled_std_unbiased"])
        .iter()
        .map(|std| std * ((pixels - 1.0) / pixels).sqrt())
        .collect::<Vec<_>>();
    close(&found.pooled_std, &biased);
}

#[test]
fn files_give_the_statistics_of_their_pictures() {
    let dir = tempfile::tempdir().unwrap();
    let pictures = [noise(20, 30), noise(7, 9)];
    for (number, picture) in pictures.iter().enumerate() {
        save(&dir.path().join(format!("a/{number}.png")), picture);
    }
    let data = DataSet::all_of(&DataSpec {
        dir: dir.path().to_str().unwrap().to_string(),
        ..DataSpec::default()
    });
    let data = data.unwrap();
    let stats = |max_pixels| mean_std(&data, &data.val, max_pixels);
    assert_eq!(stats(1000).unwrap(), mean_std_of(&pictures));
    let error = stats(100).unwrap_err().to_string();
    assert!(error.contains("0.png"), "{error}");
}
