use perennial_data::Picture;
use perennial_data::augment::Transform;
use perennial_data::resize::resize;
use perennial_plan::random::{Domain, Stream};
use perennial_plan::spec::{AugmentSpec, DataSpec, Interpolation};

use crate::support::{cases, fixture, noise, smooth};

const PLAIN: fn() -> AugmentSpec = || AugmentSpec {
    horizontal_flip: 0.0,
    ..AugmentSpec::default()
};

fn transform(image_size: u32, augment: AugmentSpec) -> Transform {
    let data = DataSpec {
        image_size,
        mean: [0.485, 0.456, 0.406],
        std: [0.229, 0.224, 0.225],
        ..DataSpec::default()
    };
    Transform::new(&data, &augment)
}

fn augmented(transform: &Transform, picture: &Picture, key: u64) -> Picture {
    transform.augmented(picture, &mut Stream::new(3, Domain::Augment, &[0, key]))
}

#[test]
fn a_byte_is_normalised_as_torchvision_does() {
    let transform = transform(224, PLAIN());
    let mut values = Vec::new();
    transform.normalise(&noise(150, 117), &mut values);
    assert_eq!(values.len(), 150 * 117 * 3);
    let mut grey = Vec::new();
    let pixel = Picture {
        width: 1,
        height: 1,
        pixels: vec![177, 130, 109],
    };
    transform.normalise(&pixel, &mut grey);
    assert_eq!(grey, [0.9131775, 0.2401962, 0.09533776]);

    let Some(fixture) = fixture("pil_resize") else {
        return;
    };
    let mut compared = 0;
    for case in cases(&fixture, "cases") {
        let number = |value: &serde_json::Value| value.as_f64().unwrap();
        let side = |key: &str, i: usize| number(&case[key][i]) as u32;
        let (width, height) = (side("in_wh", 0), side("in_wh", 1));
        let picture = match case["image"].as_str().unwrap() {
            "noise" => noise(width, height),
            _ => smooth(width, height),
        };
        let (width, height) = (side("out_wh", 0), side("out_wh", 1));
        let resized = resize(&picture, width, height, Interpolation::Bilinear);
        let mut values = Vec::new();
        transform.normalise(&resized, &mut values);
        for row in case["totensor_chw_f32_at"].as_array().into_iter().flatten() {
            let [channel, y, x] = [0, 1, 2].map(|i| number(&row[i]) as usize);
            let found = values[(y * width as usize + x) * 3 + channel];
            assert_eq!(found, number(&row[4]) as f32);
            compared += 1;
        }
    }
    assert_eq!(compared, 40);
}

#[test]
fn without_augmentation_training_sees_what_evaluation_sees() {
    let transform = transform(64, PLAIN());
    let picture = noise(90, 70);
    let expected = resize(&picture, 64, 64, Interpolation::Bilinear);
    assert_eq!(augmented(&transform, &picture, 0), expected);
    assert_eq!(transform.resized(&picture), expected);
}

#[test]
fn flips_mirror_and_happen_as_often_as_asked() {
    let picture = noise(32, 32);
    let pixel = |p: &Picture, x: usize, y: usize| p.pixels[3 * (32 * y + x)..][..3].to_vec();
    let flips = |horizontal_flip, vertical_flip| {
        let augment = AugmentSpec {
            horizontal_flip,
            vertical_flip,
            ..PLAIN()
        };
        transform(32, augment)
    };
    let mirrored = augmented(&flips(1.0, 0.0), &picture, 0);
    let overhead = augmented(&flips(0.0, 1.0), &picture, 0);
    for (x, y) in [(0, 0), (5, 30), (31, 16)] {
        assert_eq!(pixel(&mirrored, 31 - x, y), pixel(&picture, x, y));
        assert_eq!(pixel(&overhead, x, 31 - y), pixel(&picture, x, y));
    }
    let sometimes = flips(0.25, 0.0);
    let flipped = (0..2000)
        .filter(|key| augmented(&sometimes, &picture, *key) == mirrored)
        .count();
    assert!((430..570).contains(&flipped), "{flipped}");
}

#[test]
fn cutout_paints_one_grey_rectangle_of_two_to_forty_percent() {
    let augment = AugmentSpec {
        cutout: 1.0,
        ..PLAIN()
    };
    let transform = transform(64, augment);
    let picture = smooth(64, 64);
    let mut shares = Vec::new();
    for key in 0..300 {
        let painted = augmented(&transform, &picture, key);
        let changed: Vec<(usize, usize)> = (0..64 * 64)
            .filter(|i| painted.pixels[3 * i..3 * i + 3] != picture.pixels[3 * i..3 * i + 3])
            .map(|i| (i % 64, i / 64))
            .collect();
        let left = changed.iter().map(|p| p.0).min().unwrap();
        let right = changed.iter().map(|p| p.0).max().unwrap();
        let top = changed.iter().map(|p| p.1).min().unwrap();
        let bottom = changed.iter().map(|p| p.1).max().unwrap();
        let grey = painted.pixels[3 * (top * 64 + changed[0].0)];
        for y in top..=bottom {
            for x in left..=right {
                assert_eq!(painted.pixels[3 * (64 * y + x)..][..3], [grey; 3]);
            }
        }
        shares.push((right - left + 1) as f64 * (bottom - top + 1) as f64 / 4096.0);
    }
    let mean = shares.iter().sum::<f64>() / shares.len() as f64;
    assert!((0.18..0.22).contains(&mean), "{mean}");
    assert!(shares.iter().all(|share| (0.01..=0.4).contains(share)));
}

#[test]
fn random_crops_depend_on_epoch_and_sample_alone() {
    let augment = AugmentSpec {
        crop_scale: Some([0.08, 1.0]),
        ..AugmentSpec::default()
    };
    let transform = transform(48, augment);
    assert!(transform.crops());
    let picture = smooth(150, 90);
    let draw = |epoch, sample| {
        let mut random = Stream::new(3, Domain::Augment, &[epoch, sample]);
        transform.augmented(&picture, &mut random)
    };
    assert_eq!(draw(0, 7), draw(0, 7));
    assert_ne!(draw(0, 7), draw(1, 7));
    assert_ne!(draw(0, 7), draw(0, 8));
}

#[test]
fn pictures_of_any_aspect_can_be_cropped() {
    let augment = AugmentSpec {
        crop_scale: Some([0.01, 1.0]),
        cutout: 1.0,
        ..AugmentSpec::default()
    };
    let transform = transform(32, augment);
    for (width, height) in [(1, 1), (1, 300), (300, 1), (3, 5), (400, 20)] {
        for key in 0..20 {
            let out = augmented(&transform, &smooth(width, height), key);
            assert_eq!(out.pixels.len(), 32 * 32 * 3);
        }
    }
}
