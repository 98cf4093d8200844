use serde_json::Value;

use crate::support::{run, workshop};

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
