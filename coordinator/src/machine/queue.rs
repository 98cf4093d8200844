//! The way to the log: one entry at a time, in order, each asked for until it is there.

use std::collections::VecDeque;
use std::time::Duration;

use super::Effect;
use crate::log::{LogEntry, LogRecord};

/// The pause before an entry that could not be written is tried again.
const RETRY: Duration = Duration::from_millis(500);

#[derive(Debug)]
pub(super) struct LogQueue {
    term: u64,
    writer: String,
    /// Of the entry that is under way, or of the next one.
    position: u64,
    waiting: VecDeque<LogEntry>,
    under_way: Option<LogRecord>,
    /// When the entry under way is asked for again.
    retry_at: Option<Duration>,
}

// === impl LogQueue ===

impl LogQueue {
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

    pub fn push(&mut self, entry: LogEntry) {
        self.waiting.push_back(entry);
    }

    /// What to ask for now, if anything.
    pub fn next(&mut self, now: Duration) -> Option<Effect> {
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
        Some(Effect::AppendLog {
            position: self.position,
            record: Box::new(self.under_way.clone()?),
        })
    }

    /// The entry under way is in the log.
    pub fn appended(&mut self) -> Option<LogEntry> {
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
