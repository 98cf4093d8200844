//! A whole log: a broken rule, or a state from which a coordinator can go on.

#![no_main]

use libfuzzer_sys::fuzz_target;
use perennial_coordinator::log::LogRecord;
use perennial_coordinator::replay::Replayed;
use perennial_fuzz::{machine, spec};

fuzz_target!(|bytes: &[u8]| {
    let Ok(log) = serde_json::from_slice::<Vec<LogRecord>>(bytes) else {
        return;
    };
    let written = serde_json::to_vec(&log).expect("what was read can be written");
    let read: Vec<LogRecord> =
        serde_json::from_slice(&written).expect("what was written can be read");
    assert_eq!(read, log);
    if let Ok(state) = Replayed::of(&spec(), &log) {
        let steps = state.steps.len() as u64;
        assert!(state.root(steps).is_some() && state.root(steps + 1).is_none());
        assert_eq!(Replayed::of(&spec(), &read), Ok(state));
    }
    let _ = machine(log);
});
