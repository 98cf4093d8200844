//! The log: what its entries say, and what follows from reading it from the first position on.

use perennial_plan::invariants::Invariant;

/// A membership as it stands in the log.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation {
    pub id: u8,
    /// One bit a worker.
    pub members: u8,
    /// Steps applied before its first one.
    pub start: u8,
    /// All members load the checkpoint of `start` (0: the initial weights), whatever they hold.
    pub checkpoint: bool,
}

/// One position of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Entry {
    Term {
        term: u8,
        by: Option<u8>,
    },
    Generation {
        term: u8,
        generation: Generation,
    },
    /// The steps `first..end` are counted.
    Steps {
        term: u8,
        generation: u8,
        first: u8,
        end: u8,
    },
}

/// What a reader of the log knows.
#[derive(Debug, Clone, Default)]
pub struct Reading {
    pub term: u8,
    pub generation: Generation,
    /// Steps counted, as of the last entry.
    pub end: u8,
    /// Most steps that were ever counted.
    pub furthest: u8,
    /// The rules that the log itself breaks.
    pub broken: Vec<Invariant>,
}

// === impl Reading ===

impl Reading {
    pub fn of(log: &[Entry]) -> Self {
        let mut reading = Self::default();
        for entry in log {
            reading.read(*entry);
        }
        reading
    }

    fn read(&mut self, entry: Entry) {
        match entry {
            Entry::Term { term, .. } => {
                self.hold(Invariant::Log1, term == self.term + 1);
                self.term = term;
            }
            Entry::Generation { term, generation } => {
                self.hold(Invariant::Log1, term == self.term);
                self.hold(Invariant::Gen1, generation.id == self.generation.id + 1);
                let start = generation.start;
                let goes_on = if generation.checkpoint {
                    start <= self.end
                } else {
                    start == self.end
                };
                self.hold(Invariant::Ex2, goes_on);
                self.generation = generation;
                self.end = start;
            }
            Entry::Steps {
                term,
                generation,
                first,
                end,
            } => {
                self.hold(Invariant::Log1, term == self.term);
                self.hold(Invariant::Gen1, generation == self.generation.id);
                self.hold(Invariant::Ex1, first == self.end && first < end);
                self.end = end;
                self.furthest = self.furthest.max(end);
            }
        }
    }

    fn hold(&mut self, invariant: Invariant, holds: bool) {
        if !holds {
            self.broken.push(invariant);
        }
    }
}
