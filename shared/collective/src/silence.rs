//! Telling a peer that says nothing from one that is slow, and from a pause of the own process.

use std::io::{self, Read, Write};
use std::time::{Duration, Instant};

use crate::stream::Stream;

/// The longest that a wait lasts before it looks at the clock.
const LONGEST_POLL: Duration = Duration::from_millis(100);
const SHORTEST_POLL: Duration = Duration::from_millis(5);
/// How much later than asked a wait may end on a busy machine.
const LATE: Duration = Duration::from_millis(100);
/// The longest time that a member says nothing.
const KEEP_ALIVE: Duration = Duration::from_millis(500);

/// How often a member with nothing to say must say so, when its peers give it up after `limit`.
pub(crate) fn keep_alive(limit: Duration) -> Duration {
    (limit / 10).clamp(SHORTEST_POLL, KEEP_ALIVE)
}

/// Counts for how long nothing came. The time is counted in waits: one that ends much later than asked
/// means that this process was paused, and what it slept through is not the peer's silence.
#[derive(Debug)]
struct Silence {
    limit: Duration,
    counted: Duration,
}

/// A connection whose reads or writes fail with [`is_silence`] once the peer neither gave nor took a
/// byte for a given time. A long message that trickles is not silence.
#[derive(Debug)]
pub(crate) struct Vigil<'a> {
    stream: &'a Stream,
    silence: Silence,
    /// What moved so far in the direction that is waited for.
    moved: fn(&Stream) -> u64,
}

// === impl Silence ===

impl Silence {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            counted: Duration::ZERO,
        }
    }

    /// How long to wait at a time.
    fn poll(&self) -> Duration {
        (self.limit / 10).clamp(SHORTEST_POLL, LONGEST_POLL)
    }

    fn broken(&mut self) {
        self.counted = Duration::ZERO;
    }

    /// Counts a wait of one [`Self::poll`] that took `elapsed` and brought nothing; whether the peer is
    /// to be given up. After a pause one more wait shows what the peer has sent meanwhile.
    fn lasts(&mut self, elapsed: Duration) -> bool {
        let paused = elapsed > self.poll() + LATE;
        self.counted += if paused { self.poll() } else { elapsed };
        !paused && self.counted >= self.limit
    }
}

// === impl Vigil ===

impl<'a> Vigil<'a> {
    /// For reads: fails once nothing came for `limit`.
    pub fn reading(stream: &'a Stream, limit: Duration) -> io::Result<Self> {
        let silence = Silence::new(limit);
        stream.set_read_timeout(Some(silence.poll()))?;
        Ok(Self {
            stream,
            silence,
            moved: Stream::received,
        })
    }

    /// For writes: fails once nothing was taken for `limit`.
    pub fn writing(stream: &'a Stream, limit: Duration) -> io::Result<Self> {
        let silence = Silence::new(limit);
        stream.set_write_timeout(Some(silence.poll()))?;
        Ok(Self {
            stream,
            silence,
            moved: Stream::sent,
        })
    }

    fn until_it_moves(
        &mut self,
        mut transfer: impl FnMut(&Stream) -> io::Result<usize>,
    ) -> io::Result<usize> {
        loop {
            let (start, moved) = (Instant::now(), (self.moved)(self.stream));
            match transfer(self.stream) {
                Ok(count) => {
                    self.silence.broken();
                    return Ok(count);
                }
                // A pause of the process interrupts the wait.
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
                    ) => {}
                Err(error) => return Err(error),
            }
            if (self.moved)(self.stream) != moved {
                self.silence.broken();
            } else if self.silence.lasts(start.elapsed()) {
                return Err(io::ErrorKind::TimedOut.into());
            }
        }
    }
}

impl Read for Vigil<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.until_it_moves(|mut stream| stream.read(buffer))
    }
}

impl Write for Vigil<'_> {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.until_it_moves(|mut stream| stream.write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether the error of a [`Vigil`] means silence. The operating system's own time-out, which ends a
/// connection, carries a number.
pub(crate) fn is_silence(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::TimedOut && error.raw_os_error().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(5);

    #[test]
    fn silence_is_counted_until_something_comes() {
        let mut silence = Silence::new(LIMIT);
        for _ in 0..49 {
            assert!(!silence.lasts(LONGEST_POLL));
        }
        assert!(silence.lasts(LONGEST_POLL));
        silence.broken();
        assert!(!silence.lasts(LONGEST_POLL));
    }

    #[test]
    fn the_silence_of_a_pause_is_forgiven() {
        let mut silence = Silence::new(LIMIT);
        for _ in 0..49 {
            assert!(!silence.lasts(LONGEST_POLL));
        }
        assert!(!silence.lasts(Duration::from_secs(3600)));
        silence.broken();
        assert!(!silence.lasts(Duration::from_secs(3600)));
        assert!(!silence.lasts(LONGEST_POLL));
    }

    #[test]
    fn a_member_speaks_at_least_twice_a_second() {
        assert_eq!(keep_alive(LIMIT), Duration::from_millis(500));
        assert_eq!(
            keep_alive(Duration::from_secs(60)),
            Duration::from_millis(500)
        );
        assert_eq!(
            keep_alive(Duration::from_secs(1)),
            Duration::from_millis(100)
        );
    }
}
