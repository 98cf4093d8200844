use perennial_data::mix::{MixPlan, Mixer, Patch};
use perennial_data::split::RandomState;
use perennial_plan::random::{Domain, Stream};
use perennial_plan::spec::MixSpec;
use serde_json::Value;

use crate::support::{cases, fixture, unit};

fn spec(mixup_alpha: f64, cutmix_alpha: f64) -> MixSpec {
    MixSpec {
        mixup_alpha,
        cutmix_alpha,
        ..MixSpec::default()
    }
}

fn patch(value: &Value) -> Patch {
    let side = |i: usize| value[i].as_u64().unwrap() as usize;
    Patch {
        top: side(0),
        bottom: side(1),
        left: side(2),
        right: side(3),
    }
}

fn assert_targets(found: &[f32], expected: &Value) {
    let expected: Vec<f32> = expected
        .as_array()
        .unwrap()
        .iter()
        .flat_map(|row| row.as_array().unwrap())
        .map(|value| value.as_f64().unwrap() as f32)
        .collect();
    assert_eq!(found, expected);
}

#[test]
fn a_patch_around_a_centre_is_clipped_and_odd_sizes_lose_nothing() {
    let found = Patch::around(10, 20, 0.7, 32, 32);
    let expected = Patch {
        top: 2,
        bottom: 19,
        left: 12,
        right: 29,
    };
    assert_eq!(found, expected);
    assert_eq!(found.share_outside(32, 32), 0.7177734375);
}

#[test]
fn patches_draws_targets_and_whole_calls_are_timms() {
    let Some(fixture) = fixture("mixup_losses") else {
        return a_patch_around_a_centre_is_clipped_and_odd_sizes_lose_nothing();
    };

    for case in cases(&fixture, "cutmix_box_from_given_centre") {
        let size = |key: &str| case[key].as_u64().unwrap() as usize;
        let (height, width) = (size("H"), size("W"));
        let lam = case["lam"].as_f64().unwrap();
        let found = Patch::around(size("cy"), size("cx"), lam, height, width);
        assert_eq!(found, patch(&case["new"]["yl_yh_xl_xh"]), "{case}");
        assert_eq!(
            found.share_outside(height, width),
            case["new"]["corrected_lam"].as_f64().unwrap()
        );
    }

    for case in cases(&fixture, "mixup_target") {
        let mixer = Mixer::new(
            &MixSpec {
                label_smoothing: case["smoothing"].as_f64().unwrap(),
                ..spec(1.0, 0.0)
            },
            12,
        );
        let lam = case["lam"].as_f64().unwrap();
        let plan = MixPlan {
            sampled_lam: lam,
            lam,
            patch: None,
        };
        let labels: Vec<u32> = (0..6).map(|i| (5 * i + 1) % 12).collect();
        let found = mixer.apply(&plan, &mut [0.0; 18], 1, &labels);
        assert_targets(&found, &case["target_f32"]);
    }

    for case in cases(&fixture, "numpy_seeded_batch_mode") {
        let number = |key: &str| case[key].as_f64().unwrap();
        let mixer = Mixer::new(
            &MixSpec {
                prob: number("prob"),
                switch_prob: number("switch_prob"),
                ..spec(number("mixup_alpha"), number("cutmix_alpha"))
            },
            12,
        );
        let mut random = RandomState::new(number("seed") as u32);
        for row in cases(case, "new") {
            let plan = mixer.draw(&mut random, 64, 64);
            let expected = MixPlan {
                sampled_lam: row[0].as_f64().unwrap(),
                patch: row[1].as_bool().unwrap().then(|| patch(&row[2])),
                lam: row[3].as_f64().unwrap(),
            };
            assert_eq!(plan, expected);
        }
    }

    for case in cases(&fixture, "full_calls") {
        if case["mode"] == "batch" {
            whole_call(case);
        }
    }
}

fn whole_call(case: &Value) {
    const SIDE: usize = 16;
    let place = |n: usize, c: usize, y: usize, x: usize| ((n * 3 + c) * SIDE + y) * SIDE + x;
    let number = |key: &str| case[key].as_f64().unwrap();
    let mixer = Mixer::new(&spec(number("mixup_alpha"), number("cutmix_alpha")), 12);
    let mut random = RandomState::new(number("seed") as u32);
    let plan = mixer.draw(&mut random, SIDE, SIDE);

    let mut images = Vec::new();
    for n in 0..4 {
        for (y, x) in (0..SIDE).flat_map(|y| (0..SIDE).map(move |x| (y, x))) {
            images.extend((0..3).map(|c| (1.5 * unit("mixup.x", place(n, c, y, x))) as f32));
        }
    }
    let targets = mixer.apply(&plan, &mut images, SIDE, &[0, 1, 2, 3]);
    assert_targets(&targets, &case["new"]["target_f32"]);

    let mut channels_first = vec![0.0f32; images.len()];
    for (i, value) in images.iter().enumerate() {
        let (pixel, c) = (i / 3, i % 3);
        let (n, y, x) = (pixel / (SIDE * SIDE), pixel / SIDE % SIDE, pixel % SIDE);
        channels_first[place(n, c, y, x)] = *value;
    }
    let bytes: Vec<u8> = channels_first
        .iter()
        .flat_map(|v| v.to_le_bytes())
        .collect();
    assert_eq!(
        u64::from(crc32fast::hash(&bytes)),
        case["new"]["x_crc32"].as_u64().unwrap(),
        "{plan:?}"
    );
}

#[test]
fn nothing_is_drawn_and_targets_are_smoothed_when_mixing_is_off() {
    let mixer = Mixer::new(&spec(0.0, 0.0), 4);
    let mut random = RandomState::new(5);
    let plan = mixer.draw(&mut random, 8, 8);
    assert_eq!(random.next_u32(), RandomState::new(5).next_u32());
    let mut images = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    let targets = mixer.apply(&plan, &mut images, 1, &[3, 0]);
    assert_eq!(images, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]);
    assert_eq!(
        targets,
        [0.025, 0.025, 0.025, 0.925, 0.925, 0.025, 0.025, 0.025]
    );
}

#[test]
fn the_middle_of_an_odd_slot_is_its_own_partner() {
    for (mixup, cutmix) in [(0.8, 0.0), (0.0, 1.0)] {
        let mixer = Mixer::new(&spec(mixup, cutmix), 3);
        let size = 8 * 8 * 3;
        for step in 0..50 {
            let before: Vec<f32> = (0..3 * size).map(|i| unit("odd", i) as f32).collect();
            let mut images = before.clone();
            let plan = mixer.draw(&mut Stream::new(1, Domain::Mix, &[step, 0]), 8, 8);
            let targets = mixer.apply(&plan, &mut images, 8, &[0, 1, 2]);
            assert_eq!(images[size..2 * size], before[size..2 * size]);
            for row in targets.chunks_exact(3) {
                assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-6);
            }
        }
        let none = mixer.draw(&mut Stream::new(1, Domain::Mix, &[0, 0]), 8, 8);
        assert!(mixer.apply(&none, &mut [], 8, &[]).is_empty());
    }
}

#[test]
fn a_patch_of_given_size_lies_inside_and_sets_lambda() {
    let mixer = Mixer::new(
        &MixSpec {
            cutmix_minmax: Some([0.2, 0.8]),
            correct_lam: false,
            ..spec(0.0, 0.0)
        },
        2,
    );
    for step in 0..200 {
        let plan = mixer.draw(&mut Stream::new(9, Domain::Mix, &[step, 1]), 33, 20);
        let patch = plan.patch.unwrap();
        assert!(patch.bottom <= 33 && patch.right <= 20);
        assert!((6..26).contains(&(patch.bottom - patch.top)));
        assert!((4..16).contains(&(patch.right - patch.left)));
        assert_eq!(plan.lam, patch.share_outside(33, 20));
    }
}
