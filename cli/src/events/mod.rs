//! What happens to a job, shown: one JSON object a line for programs, a progress bar on a terminal,
//! plain lines elsewhere.

mod bar;
mod queue;
mod words;

use std::io::IsTerminal;

use perennial_coordinator::JobEvent;

use crate::output::{self, Output};
use bar::Bar;
pub use queue::QueueViewer;
pub use words::Words;

/// Shows events in one of the three ways.
pub enum Viewer {
    Json,
    Lines(Words),
    Bar(Bar),
}

// === impl Viewer ===

impl Viewer {
    pub fn new(output: Output) -> Self {
        if output.json {
            Self::Json
        } else if std::io::stdout().is_terminal() {
            Self::Bar(Bar::default())
        } else {
            Self::Lines(Words::default())
        }
    }

    /// Shows one event. A reader of stdout that went away does not end the training.
    pub fn show(&mut self, event: &JobEvent) {
        match self {
            Self::Json => {
                let json = serde_json::to_string(event).expect("an event is plain data");
                let _ = output::line(&json);
            }
            Self::Lines(words) => {
                if let Some(line) = words.line(event) {
                    let _ = output::line(&line);
                }
            }
            Self::Bar(bar) => bar.show(event),
        }
    }
}
