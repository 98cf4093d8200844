//! A spec as JSON and as a job file: an error, or one that keeps its identity when it is written.

#![no_main]

use libfuzzer_sys::fuzz_target;
use perennial_plan::Spec;

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = str::from_utf8(bytes) else {
        return;
    };
    let json = serde_json::from_str::<Spec>(text).ok();
    for spec in json.into_iter().chain(toml::from_str(text).ok()) {
        if spec.validate().is_err() {
            continue;
        }
        assert!(spec.differences(&spec).is_empty());
        let written = serde_json::to_string(&spec).expect("a valid spec can be written");
        let read: Spec = serde_json::from_str(&written).expect("what was written can be read");
        read.validate().expect("it is as valid as it was");
        assert_eq!(read.identity_hash(), spec.identity_hash());
    }
});
