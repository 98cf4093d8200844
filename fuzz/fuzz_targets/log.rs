//! A log with one entry: an error, or the entry.

#![no_main]

use libfuzzer_sys::fuzz_target;
use perennial_fuzz::{job_with, run};
use serde_json::Value;

fuzz_target!(|bytes: &[u8]| {
    let job = job_with("log/00000000.json", bytes);
    let entry = run(job.log_entry::<Value>(0));
    match run(job.read_log::<Value>(0)) {
        Ok(log) => assert_eq!(log, [entry.expect("it was read").expect("it is there")]),
        Err(_) => assert!(entry.is_err()),
    }
});
