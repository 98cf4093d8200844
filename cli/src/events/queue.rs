//! What happens to a queue and its jobs, as one JSON object a line or as lines for people.

use std::collections::HashMap;
use std::net::SocketAddr;

use perennial_coordinator::QueueEvent;
use perennial_coordinator::queue::{How, QueueEntry};
use serde_json::json;

use super::Words;
use super::background::Background;
use crate::output::{self, Output, counted};

/// Shows events of a queue. A reader of stdout that went away does not end it, nor does one that does not read on.
pub struct QueueViewer {
    output: Output,
    lines: Background<String>,
    /// What lines about a job depend on.
    words: HashMap<String, Words>,
}

// === impl QueueViewer ===

impl QueueViewer {
    pub fn new(output: Output) -> Self {
        Self {
            output,
            lines: Background::new(|line: String| drop(output::line(&line))),
            words: HashMap::new(),
        }
    }

    pub fn listens(&self, address: SocketAddr) {
        let address = address.to_string();
        self.lines.show(match self.output.json {
            true => json!({ "listening": address }).to_string(),
            false => format!("listens at {address}, for browsers too"),
        });
    }

    pub fn show(&mut self, event: &QueueEvent) {
        if self.output.json {
            let json = serde_json::to_string(event).expect("an event is plain data");
            self.lines.show(json);
        } else if let Some(line) = self.line(event) {
            self.lines.show(line);
        }
    }

    fn line(&mut self, event: &QueueEvent) -> Option<String> {
        match event {
            QueueEvent::Queue(entry) => in_words(entry),
            QueueEvent::Warning { warning } => Some(format!("warning: {warning}")),
            QueueEvent::Job { job, event } => {
                let words = self.words.entry(job.clone()).or_default();
                Some(format!("{job}: {}", words.line(event)?))
            }
        }
    }
}

fn in_words(entry: &QueueEntry) -> Option<String> {
    Some(match entry {
        QueueEntry::Term { .. } => "rules the queue".into(),
        QueueEntry::Names { .. } => return None,
        QueueEntry::Submitted(submission) => {
            let (job, priority) = (&submission.job, submission.priority);
            format!("{job}: submitted with priority {priority}")
        }
        QueueEntry::Resumed { job } => format!("{job}: in the queue again"),
        QueueEntry::Prioritized { job, priority } => format!("{job}: has priority {priority} now"),
        QueueEntry::Scaled { job, workers } => {
            let workers = counted(u64::from(*workers), "worker");
            format!("{job}: may have {workers} now")
        }
        QueueEntry::Stopped { job, now: false } => format!("{job}: stops after the step at hand"),
        QueueEntry::Stopped { job, now: true } => format!("{job}: stops at once"),
        QueueEntry::Drained { worker } => format!("worker {worker} is to leave"),
        QueueEntry::Dismissed { worker } => format!("worker {worker} has left"),
        QueueEntry::Started { job, .. } => format!("{job}: runs"),
        QueueEntry::Returned { job, reason } => format!("{job}: back in the queue: {reason}"),
        QueueEntry::Ended { job, how, message } => match how {
            How::Failed => format!("{job}: failed: {message}"),
            how => format!("{job}: {}", how.as_str()),
        },
    })
}
