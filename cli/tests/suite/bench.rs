use serde_json::Value;

use crate::support::{run, workshop};

#[test]
fn the_sum_between_members_is_timed_in_plain_text_and_encrypted() {
    let folder = tempfile::tempdir().unwrap();
    let words = "bench collective --model casvit_xs --members 2 --rounds 1 --tls --json";
    let words: Vec<&str> = words.split(' ').collect();
    let record = run(folder.path(), &words).json();
    let told = |key: &str| {
        record[key]
            .as_f64()
            .unwrap_or_else(|| panic!("{key}: {record}"))
    };
    assert!(told("exact_ms") > 0.0 && told("encrypted_ms") > 0.0);
    assert_eq!(
        told("encrypted_ratio"),
        told("encrypted_ms") / told("exact_ms")
    );
    let sentence = run(folder.path(), &words[..words.len() - 1]).ok();
    assert!(sentence.contains("; encrypted in "), "{sentence}");
}

#[cfg(target_os = "linux")]
#[test]
fn a_step_lives_in_the_memory_of_the_one_before() {
    let folder = workshop();
    let line = ["bench", "step", "--image-size", "64", "--batch", "16"];
    let json = run(
        folder.path(),
        &[&line[..], &["--steps", "8", "--threads", "1", "--json"]].concat(),
    )
    .ok();
    let record: Value = serde_json::from_str(&json).unwrap();
    let faults = record["page_faults_per_step"].as_f64().unwrap();
    // Its activations are some 15,000 pages.
    assert!(
        faults < 200.0,
        "{faults} pages were faulted in at each step"
    );
}
