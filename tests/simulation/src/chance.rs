//! The one source of randomness of a simulated world.

use perennial_plan::random::{Domain, Draw, Stream};

use crate::queue::{MILLISECOND, SECOND, Time};

/// Everything that chance decides in a world comes from here, in the order in which it is asked.
pub struct Chance(Stream);

// === impl Chance ===

impl Chance {
    pub fn new(seed: u64) -> Self {
        Self(Stream::new(seed, Domain::Synthetic, &[]))
    }

    pub fn next(&mut self) -> u64 {
        self.0.next_u64()
    }

    /// In `[0, bound)`; `bound` is at least 1.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound as u64) as usize
    }

    /// True `share` (0..1) of the time.
    pub fn happens(&mut self, share: f64) -> bool {
        self.0.uniform() < share
    }

    pub fn uniform(&mut self, low: f64, high: f64) -> f64 {
        self.0.uniform_in(low, high)
    }

    /// A time between two numbers of milliseconds.
    pub fn milliseconds(&mut self, low: u64, high: u64) -> Time {
        self.uniform(low as f64, high as f64 + 1.0) as Time * MILLISECOND
            + self.0.below(MILLISECOND)
    }

    /// A time between two numbers of seconds.
    pub fn seconds(&mut self, low: f64, high: f64) -> Time {
        (self.uniform(low, high) * SECOND as f64) as Time
    }

    /// One of them; none of none.
    pub fn choose<T: Copy>(&mut self, items: &[T]) -> Option<T> {
        if items.is_empty() {
            None
        } else {
            Some(items[self.below(items.len())])
        }
    }
}
