//! What goes wrong on demand: the words of `STANDIN_NCCL_FAULTS`.
//!
//! * `no-device`: there are no streams
//! * `init-hang`, `init-fail`, `init-slow=MILLISECONDS`: while a communicator is being made
//! * `hang@N`: the N-th group of this process is put on the stream and never ends
//! * `error@N`: it fails after it was put there
//! * `stuck@N`: the call that ends it does not return before the communicator is aborted
//! * `vanish@N`: the process is gone in the middle of it
//! * `blind`: a peer that is gone is never noticed, as over shared memory
//! * `abort-hang`: an abort never returns
//! * `abort-together`: an abort returns when all peers have aborted or are gone

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

static GROUPS: AtomicU64 = AtomicU64::new(0);

/// The number of the group that begins, from 1.
pub fn next_group() -> u64 {
    GROUPS.fetch_add(1, Ordering::SeqCst) + 1
}

fn words() -> Vec<String> {
    let said = std::env::var("STANDIN_NCCL_FAULTS").unwrap_or_default();
    said.split(',').map(str::to_owned).collect()
}

pub fn has(fault: &str) -> bool {
    words().iter().any(|word| word == fault)
}

/// Whether `fault` is for the group of this number; a line on standard output says so.
pub fn strikes(fault: &str, group: u64) -> bool {
    let fault = format!("{fault}@{group}");
    let strikes = has(&fault);
    if strikes {
        println!("struck {fault}");
    }
    strikes
}

/// How long making a communicator takes beyond what it must.
pub fn slow_init() -> Duration {
    let words = words();
    let found = words
        .iter()
        .find_map(|word| word.strip_prefix("init-slow="));
    Duration::from_millis(found.and_then(|millis| millis.parse().ok()).unwrap_or(0))
}
