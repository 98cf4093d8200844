use perennial_data::SplitError;
use perennial_data::split::{RandomState, Split, stratified_split, train_test_split};
use perennial_plan::random::Draw;

use crate::support::{cases, fixture, sha256, word};

#[test]
fn the_generator_is_numpys() {
    let mut random = RandomState::new(42);
    let words: Vec<u32> = (0..3).map(|_| random.next_u32()).collect();
    assert_eq!(words, [1608637542, 3421126067, 4083286876]);
    let mut random = RandomState::new(42);
    assert_eq!(random.uniform(), 0.3745401188473625);
    assert_eq!(random.beta(0.8, 0.8), 0.8430229747702583);
    assert_eq!(random.beta(1.0, 1.0), 0.7286803117688582);
    assert_eq!(random.below(224), 87);
}

#[test]
fn permutations_are_numpys_whatever_their_length() {
    let expected = [
        (
            1000,
            "d32ced5c0422023ce691deb5e01cffb97c930477895f4e9ece52baee57804c62",
        ),
        (
            50000,
            "b535f99bebaeb9512aaf8d0847bcff59fcaf5261a72695e014c076bfcf169725",
        ),
    ];
    for (length, expected) in expected {
        let order = RandomState::new(42).permutation(length);
        let bytes: Vec<u8> = order
            .iter()
            .flat_map(|place| (*place as u32).to_le_bytes())
            .collect();
        assert_eq!(sha256(&bytes), expected);
    }
}

#[test]
fn a_small_split_is_scikit_learns() {
    assert_eq!(
        train_test_split(10, 0.3, 42).unwrap(),
        Split {
            train: vec![0, 7, 2, 9, 4, 3, 6],
            test: vec![8, 1, 5],
        }
    );
    assert_eq!(
        stratified_split(&[0, 0, 0, 0, 0, 0, 0, 1, 1, 1], 0.3, 42).unwrap(),
        Split {
            train: vec![8, 0, 2, 4, 5, 1, 9],
            test: vec![7, 6, 3],
        }
    );
}

#[test]
fn splits_are_scikit_learns_index_for_index() {
    let Some(fixture) = fixture("train_test_split") else {
        return a_small_split_is_scikit_learns();
    };
    for case in cases(&fixture, "cases") {
        let n = case["n"].as_u64().unwrap() as usize;
        let fraction = case["test_size"].as_f64().unwrap();
        let seed = case["random_state"].as_u64().unwrap() as u32;
        let split = match case["stratify"].as_str() {
            None => train_test_split(n, fraction, seed),
            Some(kind) => stratified_split(&labels(&fixture, kind, n), fraction, seed),
        }
        .unwrap();
        for (side, found) in [("train", &split.train), ("test", &split.test)] {
            let joined: Vec<String> = found.iter().map(usize::to_string).collect();
            assert_eq!(
                sha256(joined.join(",").as_bytes()),
                case[format!("{side}_sha256")].as_str().unwrap(),
                "{side} of {case}"
            );
        }
    }
}

fn labels(fixture: &serde_json::Value, kind: &str, n: usize) -> Vec<u32> {
    let classes = match n {
        0..20 => 2,
        20..100 => 3,
        _ => 12,
    };
    let mut labels: Vec<u32> = match kind {
        "seedlings" => cases(fixture, "seedlings_counts")
            .iter()
            .enumerate()
            .flat_map(|(class, count)| vec![class as u32; count.as_u64().unwrap() as usize])
            .collect(),
        _ => (0..n)
            .map(|i| {
                let hash = word("labels", i);
                (hash % classes).min((hash >> 32) % classes) as u32
            })
            .collect(),
    };
    if kind == "sorted" {
        labels.sort_unstable();
    }
    labels
}

#[test]
fn a_split_that_cannot_be_is_refused() {
    assert_eq!(
        train_test_split(1, 0.3, 0),
        Err(SplitError::EmptySide { samples: 1 })
    );
    assert_eq!(
        train_test_split(0, 0.3, 0),
        Err(SplitError::EmptySide { samples: 0 })
    );
    assert_eq!(
        stratified_split(&[0, 0, 0, 1], 0.5, 0),
        Err(SplitError::RareClass { class: 1, count: 1 })
    );
    assert_eq!(
        stratified_split(&[0, 0, 1, 1, 2, 2], 0.3, 0),
        Err(SplitError::SmallSide {
            classes: 3,
            side: 2
        })
    );
}
