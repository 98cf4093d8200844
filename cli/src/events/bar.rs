//! A progress bar over the steps of the job, with a line an epoch above it.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use perennial_coordinator::JobEvent;

use super::words::Words;
use crate::output::{duration, percent};

const TEMPLATE: &str = "{spinner} {bar:24} {pos}/{len} {msg}";

/// Until the first step there is a spinner only.
#[derive(Default)]
pub struct Bar {
    words: Words,
    bar: Option<ProgressBar>,
}

// === impl Bar ===

impl Bar {
    pub fn show(&mut self, event: &JobEvent) {
        if let Some(line) = self.words.line(event) {
            self.print(&line);
        }
        match event {
            JobEvent::Started {
                global_step,
                total_steps,
                ..
            } => {
                let bar = self.bar(*total_steps);
                bar.set_position(*global_step);
            }
            JobEvent::Step {
                epoch,
                global_step,
                total_steps,
                loss,
                top1,
                images_per_second,
                eta_seconds,
                ..
            } => {
                let message = format!(
                    "epoch {epoch}  loss {loss:.3}  top-1 {}  {images_per_second:.0} images/s  {} left",
                    percent(*top1),
                    duration(*eta_seconds)
                );
                let bar = self.bar(*total_steps);
                bar.set_position(*global_step);
                bar.set_message(message);
            }
            JobEvent::Finished { .. } | JobEvent::Stopped { .. } | JobEvent::Error { .. } => {
                self.clear();
            }
            _ => {}
        }
    }

    fn print(&self, line: &str) {
        match &self.bar {
            Some(bar) => bar.println(line),
            None => drop(crate::output::line(line)),
        }
    }

    fn bar(&mut self, total_steps: u64) -> &ProgressBar {
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stdout());
            let style = ProgressStyle::with_template(TEMPLATE).expect("the template is valid");
            bar.set_style(style.progress_chars("━╸ "));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        bar.set_length(total_steps);
        bar
    }

    fn clear(&mut self) {
        if let Some(bar) = self.bar.take() {
            bar.finish_and_clear();
        }
    }
}

impl Drop for Bar {
    fn drop(&mut self) {
        self.clear();
    }
}
