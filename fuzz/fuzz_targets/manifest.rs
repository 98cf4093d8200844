//! A checkpoint's manifest: an error, or one that can be written and read again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use perennial_fuzz::{job_with, run};

const PATH: &str = "checkpoints/000000000010/MANIFEST.json";

fuzz_target!(|bytes: &[u8]| {
    let job = job_with(PATH, bytes);
    let Ok(manifest) = run(job.load_manifest(10)) else {
        return;
    };
    assert_eq!(manifest.global_step, 10);
    let written = serde_json::to_vec(&manifest).expect("what was read can be written");
    let read = run(job_with(PATH, &written).load_manifest(10));
    let read = read.expect("what was written can be read");
    assert_eq!(read.parts, manifest.parts);
    assert_eq!(read.cursor, manifest.cursor);
    // A checkpoint whose parts are all missing is found to be broken, and nothing else happens.
    let problems = run(job.verify_checkpoint(10)).expect("its manifest is there");
    assert_eq!(problems.len(), manifest.parts.len());
});
