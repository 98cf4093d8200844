use perennial_data::resize::{Region, resize, resize_region};
use perennial_plan::spec::Interpolation;

use crate::support::{cases, fixture, noise, sha256, smooth};

#[test]
fn one_enlarged_picture_is_pillows() {
    let enlarged = resize(&noise(150, 117), 224, 224, Interpolation::Bilinear);
    assert_eq!(
        sha256(&enlarged.pixels),
        "15732a53b723d69d9058bb4ef9c8d58e977735e39dad3232999ec3719b67fb26"
    );
}

#[test]
fn one_shrunk_picture_is_pillows() {
    let shrunk = resize(&noise(512, 384), 64, 64, Interpolation::Bicubic);
    assert_eq!(
        sha256(&shrunk.pixels),
        "ff3bfbb58c800db1858172ae9ac9bdff533ed8293c0f8cc54cc0664756262539"
    );
}

#[test]
fn resizing_is_pillows_to_the_byte() {
    let Some(fixture) = fixture("pil_resize") else {
        one_enlarged_picture_is_pillows();
        return one_shrunk_picture_is_pillows();
    };
    for case in cases(&fixture, "cases") {
        let side = |key: &str, i: usize| case[key][i].as_u64().unwrap() as u32;
        let (width, height) = (side("in_wh", 0), side("in_wh", 1));
        let picture = match case["image"].as_str().unwrap() {
            "noise" => noise(width, height),
            _ => smooth(width, height),
        };
        assert_eq!(sha256(&picture.pixels), case["in_sha256"].as_str().unwrap());
        let filter = match case["filter"].as_str().unwrap() {
            "bilinear" => Interpolation::Bilinear,
            _ => Interpolation::Bicubic,
        };
        let resized = resize(&picture, side("out_wh", 0), side("out_wh", 1), filter);
        assert_eq!(
            sha256(&resized.pixels),
            case["out_sha256"].as_str().unwrap(),
            "{case}"
        );
    }
}

#[test]
fn a_picture_of_the_right_size_stays_as_it_is() {
    let picture = noise(31, 17);
    assert_eq!(resize(&picture, 31, 17, Interpolation::Bicubic), picture);
}

#[test]
fn a_region_is_resized_as_if_nothing_lay_around_it() {
    let picture = noise(50, 40);
    let region = Region {
        left: 7,
        top: 11,
        width: 20,
        height: 13,
    };
    let cut = resize_region(&picture, region, 20, 13, Interpolation::Bilinear);
    for filter in [Interpolation::Bilinear, Interpolation::Bicubic] {
        assert_eq!(
            resize_region(&picture, region, 32, 9, filter),
            resize(&cut, 32, 9, filter)
        );
    }
}

#[test]
fn extreme_aspects_resize() {
    for (width, height) in [(1, 1), (1, 500), (500, 1), (2, 3)] {
        let resized = resize(&smooth(width, height), 64, 64, Interpolation::Bicubic);
        assert_eq!(resized.pixels.len(), 64 * 64 * 3);
    }
}
