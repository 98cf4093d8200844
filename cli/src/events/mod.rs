//! What happens to a job, shown: one JSON object a line for programs, a progress bar on a terminal,
//! plain lines elsewhere.

mod background;
mod bar;
mod queue;
mod words;

use std::io::IsTerminal;

use perennial_coordinator::JobEvent;

use crate::output::{self, Output};
use background::Background;
use bar::Bar;
pub use queue::QueueViewer;
pub use words::Words;

/// Shows events in one of the three ways, without keeping who tells them waiting.
pub struct Viewer(Background<JobEvent>);

enum View {
    Json,
    Lines(Words),
    Bar(Bar),
}

// === impl Viewer ===

impl Viewer {
    pub fn new(output: Output) -> Self {
        let mut view = if output.json {
            View::Json
        } else if std::io::stdout().is_terminal() {
            View::Bar(Bar::default())
        } else {
            View::Lines(Words::default())
        };
        Self(Background::new(move |event| view.show(&event)))
    }

    /// Shows one event. A reader of stdout that went away does not end the training.
    pub fn show(&self, event: &JobEvent) {
        self.0.show(event.clone());
    }
}

// === impl View ===

impl View {
    fn show(&mut self, event: &JobEvent) {
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
