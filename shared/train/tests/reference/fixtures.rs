//! Reading golden numbers, and the formula from which their inputs are made.

use serde_json::Value;

pub fn load(name: &str) -> Value {
    let folders = [
        concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../../shared/fixtures/utils"
        ),
        concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data"),
    ];
    let text = folders
        .iter()
        .find_map(|folder| std::fs::read_to_string(format!("{folder}/{name}.json")).ok())
        .unwrap();
    serde_json::from_str(&text).unwrap()
}

pub fn cases<'a>(fixture: &'a Value, key: &str) -> &'a [Value] {
    let cases = fixture[key].as_array().unwrap();
    assert!(!cases.is_empty());
    cases
}

/// All numbers of a nested array in row-major order.
pub fn numbers(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(items) => items.iter().flat_map(numbers).collect(),
        number => vec![number.as_f64().unwrap()],
    }
}

pub fn hash(name: &str, index: u64) -> u64 {
    let fnv = name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    let z = u64::wrapping_add(fnv, index).wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// `scale * u(name, i)` for the first `count` indices, each rounded once.
pub fn tensor(name: &str, count: usize, scale: f64) -> Vec<f32> {
    (0..count as u64)
        .map(|index| (hash(name, index) >> 11) as f64 / (1u64 << 53) as f64 * 2.0 - 1.0)
        .map(|u| (scale * u) as f32)
        .collect()
}

pub fn assert_near(found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(expected) {
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= tolerance, "{found} but {expected}: {error:e}");
    }
}
