//! What a run cannot end without is tried again for as long as an outage of the store may last.

use std::time::Duration;

/// Nothing is tried for longer.
pub(super) const PATIENCE: Duration = Duration::from_secs(300);
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(15);

/// The attempts at one thing.
#[derive(Debug, Default)]
pub(super) struct Retry {
    /// When the first one failed.
    since: Option<Duration>,
    pause: Duration,
    next: Option<Duration>,
}

/// What to do about a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Again {
    NotYet,
    Now,
    Never,
}

// === impl Retry ===

impl Retry {
    /// The last attempt failed, now or before: is it time for another one?
    pub fn again(&mut self, now: Duration) -> Again {
        let since = *self.since.get_or_insert(now);
        match self.next {
            None if now - since >= PATIENCE => Again::Never,
            None => {
                self.pause = (self.pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
                self.next = Some(now + self.pause);
                Again::NotYet
            }
            Some(next) if now < next => Again::NotYet,
            Some(_) => {
                self.next = None;
                Again::Now
            }
        }
    }
}
