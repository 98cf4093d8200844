//! The way to a log: one entry at a time, in order, each asked for until it is there.

use std::collections::VecDeque;
use std::time::Duration;

use crate::log::{LogEntry, LogRecord};

/// The pause before an entry that could not be written is tried again.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(crate) struct LogQueue<E = LogEntry> {
    term: u64,
    writer: String,
    /// Of the entry that is under way, or of the next one.
    position: u64,
    waiting: VecDeque<E>,
    under_way: Option<LogRecord<E>>,
    /// When the entry under way is asked for again.
    retry_at: Option<Duration>,
}

// === impl LogQueue ===

impl<E: Clone> LogQueue<E> {
    pub fn new(term: u64, writer: String, position: u64) -> Self {
        Self {
            term,
            writer,
            position,
            waiting: VecDeque::new(),
            under_way: None,
            retry_at: None,
        }
    }

    pub fn position(&self) -> u64 {
        self.position
    }

    pub fn push(&mut self, entry: E) {
        self.waiting.push_back(entry);
    }

    /// The entry to ask for now and its position, if any.
    pub fn next(&mut self, now: Duration) -> Option<(u64, Box<LogRecord<E>>)> {
        if self.under_way.is_some() {
            self.retry_at.take_if(|at| now >= *at)?;
        } else {
            let entry = self.waiting.pop_front()?;
            self.under_way = Some(LogRecord {
                term: self.term,
                writer: self.writer.clone(),
                entry,
            });
        }
        Some((self.position, Box::new(self.under_way.clone()?)))
    }

    /// Whether something is under way or waits.
    pub fn is_busy(&self) -> bool {
        self.under_way.is_some() || !self.waiting.is_empty()
    }

    /// The entry under way is in the log.
    pub fn appended(&mut self) -> Option<E> {
        let record = self.under_way.take()?;
        self.position += 1;
        self.retry_at = None;
        Some(record.entry)
    }

    /// The entry under way may not be in the log.
    pub fn failed(&mut self, now: Duration) {
        self.retry_at = Some(now + RETRY);
    }
}
