//! The text that says which faults a store suffers.

#![no_main]

use libfuzzer_sys::fuzz_target;
use perennial_store::Faults;

fuzz_target!(|text: &str| {
    if let Ok(faults) = text.parse::<Faults>() {
        assert!((0.0..=1.0).contains(&faults.rate));
    }
});
