//! Memory from step to step.
#![allow(unsafe_code)]

use std::ffi::c_long;

/// `mi_option_purge_delay` of mimalloc, which its bindings do not name: milliseconds after which freed pages go back
/// to the system, or -1 for never.
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
const NEVER: c_long = -1;

/// Lets mimalloc keep what is freed. A training step allocates what the one before it has freed; pages that went back
/// to the system meanwhile would be faulted in again, and zeroed, one by one.
pub fn keep_freed_pages() {
    // SAFETY: sets an integer of the allocator's own, which may be done at any time; without mimalloc as the
    // allocator it has no effect.
    unsafe { libmimalloc_sys::mi_option_set(PURGE_DELAY, NEVER) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_option_is_the_one_that_the_library_calls_so() {
        let before = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(before, 1000, "the default of mimalloc's `purge_delay`");
        keep_freed_pages();
        assert_eq!(
            unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) },
            NEVER
        );
    }
}
