//! A safetensors file: an error, or tensors that are written and read again as the same ones.

#![no_main]

use libfuzzer_sys::fuzz_target;
use perennial_store::tensors::{decode, encode, sha256};

fuzz_target!(|bytes: &[u8]| {
    let Ok(tensors) = decode(bytes) else { return };
    assert!(tensors.values().all(|tensor| tensor.is_sound()));
    let written = encode(&tensors).expect("what was read can be written");
    let read = decode(&written).expect("what was written can be read");
    // Compared as bytes, for NaN is not itself.
    let again = encode(&read).expect("what was read can be written");
    assert_eq!(sha256(&again), sha256(&written));
});
