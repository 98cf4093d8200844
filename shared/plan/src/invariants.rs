//! The registry of numbered invariants. A violation is a loud stop, never a silent repair.

use std::fmt;

/// A rule that holds at all times, in tests and in production.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Invariant {
    /// Each sample is applied exactly once an epoch.
    Ex1,
    /// The cursor never goes back except to a checkpoint that all members load.
    Ex2,
    /// At most one generation is live.
    Gen1,
    /// Nothing stale has an effect.
    Gen2,
    /// Members at the same cursor have the same replica hash.
    Rep1,
    /// A manifest names only complete parts whose hashes hold.
    Ck1,
    /// Retention never removes what a manifest names.
    Ck2,
    /// Log positions are contiguous and written by one coordinator a term.
    Log1,
    /// The number of evaluated samples is the size of the data set.
    Ev1,
    /// An evaluation is of the weights whose hash its job names.
    Ev2,
    /// A step is skipped by all members or by none, at one loss scale.
    Sc1,
    /// A stop that was asked for ends the job in bounded time, once nothing goes wrong. Only an observer with a clock of
    /// its own can see that, so it is checked in the simulation.
    End1,
}

// === impl Invariant ===

impl Invariant {
    /// The number by which documents and messages call it, and the rule in words.
    pub fn describe(self) -> (&'static str, &'static str) {
        match self {
            Self::Ex1 => ("EX-1", "each sample is applied exactly once an epoch"),
            Self::Ex2 => (
                "EX-2",
                "the cursor never goes back except to a checkpoint that all members load",
            ),
            Self::Gen1 => ("GEN-1", "at most one generation is live"),
            Self::Gen2 => ("GEN-2", "nothing stale has an effect"),
            Self::Rep1 => (
                "REP-1",
                "members at the same cursor have the same replica hash",
            ),
            Self::Ck1 => (
                "CK-1",
                "a manifest names only complete parts whose hashes hold",
            ),
            Self::Ck2 => ("CK-2", "retention never removes what a manifest names"),
            Self::Log1 => (
                "LOG-1",
                "log positions are contiguous and written by one coordinator a term",
            ),
            Self::Ev1 => (
                "EV-1",
                "the number of evaluated samples is the size of the data set",
            ),
            Self::Ev2 => (
                "EV-2",
                "an evaluation is of the weights whose hash its job names",
            ),
            Self::Sc1 => (
                "SC-1",
                "a step is skipped by all members or by none, at one loss scale",
            ),
            Self::End1 => (
                "END-1",
                "a stop that was asked for ends the job in bounded time, once nothing goes wrong",
            ),
        }
    }

    /// An error unless `holds`; `detail` says what was seen.
    pub fn check(self, holds: bool, detail: impl FnOnce() -> String) -> Result<(), Violation> {
        if holds {
            Ok(())
        } else {
            Err(Violation {
                invariant: self,
                detail: detail(),
            })
        }
    }
}

/// An invariant that did not hold, and what was seen.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct Violation {
    pub invariant: Invariant,
    pub detail: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (number, rule) = self.invariant.describe();
        write!(f, "invariant {number} ({rule}) is broken: {}", self.detail)
    }
}
