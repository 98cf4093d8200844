//! How fast one connection may speak.

use std::time::{Duration, Instant};

/// Messages a second that are heard in the long run: a worker has a few for each step.
const RATE: u32 = 1000;
/// Messages that are heard at once: all that a worker kept while no coordinator was there.
const AT_ONCE: u32 = 20_000;

/// Makes who speaks faster wait: what it says stays unread, and its own end of the connection fills.
#[derive(Debug)]
pub(super) struct Pace {
    /// When all that was heard would have come at [`RATE`].
    due: Instant,
}

// === impl Pace ===

impl Pace {
    pub fn new(now: Instant) -> Self {
        Self { due: now }
    }

    /// How long a message that came now has to wait before it is heard.
    pub fn wait(&mut self, now: Instant) -> Duration {
        let each = Duration::from_secs(1) / RATE;
        self.due = self.due.max(now) + each;
        (self.due - now).saturating_sub(each * AT_ONCE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_heard_at_once_and_a_flood_is_slowed_down() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        for _ in 0..AT_ONCE {
            assert_eq!(pace.wait(start), Duration::ZERO);
        }
        for _ in 0..RATE {
            pace.wait(start);
        }
        assert_eq!(pace.wait(start), Duration::from_millis(1001));
        let later = start + Duration::from_secs(60);
        assert_eq!(pace.wait(later), Duration::ZERO);
    }
}
