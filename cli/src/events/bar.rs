//! A progress bar over the steps of the job, with a line an epoch above it.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use perennial_coordinator::JobEvent;

use super::words::Words;
use crate::output::{duration, percent};

const TEMPLATE: &str = "{spinner} {bar:12} {pos}/{len} {wide_msg}";

/// Until the run has started there are lines only.
#[derive(Default)]
pub struct Bar {
    words: Words,
    bar: Option<ProgressBar>,
}

// === impl Bar ===

impl Bar {
    pub fn show(&mut self, event: &JobEvent) {
        let is_last = matches!(
            event,
            JobEvent::Finished { .. } | JobEvent::Stopped { .. } | JobEvent::Error { .. }
        );
        if is_last {
            self.clear();
        }
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
                    "loss {loss:.3}  top-1 {}  {images_per_second:.0} images/s  {} left  epoch {epoch}",
                    percent(*top1),
                    duration(*eta_seconds)
                );
                let bar = self.bar(*total_steps);
                bar.set_position(*global_step);
                bar.set_message(message);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_follows_the_steps_and_goes_at_the_end() {
        let mut bar = Bar::default();
        bar.show(&JobEvent::Started {
            generation: 1,
            epoch: 1,
            step: 4,
            global_step: 4,
            total_steps: 20,
            resumed_from: Some(4),
            workers: 1,
            reason: String::new(),
        });
        for global_step in 5..=20 {
            bar.show(&JobEvent::Step {
                epoch: 2,
                step: 1,
                global_step,
                total_steps: 20,
                loss: 1.234,
                top1: 0.5,
                learning_rate: 0.1,
                grad_norm: 1.0,
                loss_scale: None,
                skipped: None,
                images_per_second: 99.6,
                eta_seconds: 61.0,
            });
        }
        let shown = bar.bar.as_ref().unwrap();
        assert_eq!((shown.position(), shown.length()), (20, Some(20)));
        assert_eq!(
            shown.message(),
            "loss 1.234  top-1 50.0 %  100 images/s  1 min 01 s left  epoch 2"
        );
        bar.show(&JobEvent::Stopped {
            global_step: 20,
            resume: String::new(),
            report: None,
        });
        assert!(bar.bar.is_none());
    }
}
