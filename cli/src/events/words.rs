//! An event as a line for people.

use perennial_coordinator::JobEvent;

use crate::output::{counted, duration, percent, thousands};

/// What a line says depends a little on what happened before.
#[derive(Debug, Default)]
pub struct Words {
    epochs: u32,
}

// === impl Words ===

impl Words {
    /// The line, or none for events that are too many or are told elsewhere.
    pub fn line(&mut self, event: &JobEvent) -> Option<String> {
        match event {
            JobEvent::Job {
                name,
                store,
                workers,
                train_samples,
                val_samples,
                classes,
                skipped,
                parameters,
                epochs,
                ..
            } => {
                self.epochs = *epochs;
                let skipped = match skipped {
                    0 => String::new(),
                    skipped => format!(", {} left out", counted(*skipped, "bad picture")),
                };
                Some(format!(
                    "job {name}: {} to train on and {} to validate on, {}{skipped}; \
                     {} parameters, {}, {}; store {store}",
                    counted(*train_samples, "picture"),
                    thousands(*val_samples),
                    counted(classes.len() as u64, "class"),
                    thousands(*parameters),
                    counted(u64::from(*epochs), "epoch"),
                    counted(u64::from(*workers), "worker"),
                ))
            }
            JobEvent::WorkerJoined {
                worker,
                threads,
                ready,
                workers,
                ..
            } => Some(format!(
                "worker {worker} is ready with {} ({ready} of {workers})",
                counted(u64::from(*threads), "thread")
            )),
            JobEvent::Started {
                epoch,
                step,
                resumed_from,
                workers,
                reason,
                ..
            } => match resumed_from {
                Some(checkpoint) => Some(format!(
                    "goes on from the checkpoint of step {checkpoint}: epoch {epoch}, after {}",
                    counted(u64::from(*step), "step")
                )),
                None if reason.is_empty() => None,
                None => Some(format!(
                    "goes on with {}: {reason}",
                    counted(u64::from(*workers), "worker")
                )),
            },
            JobEvent::Waiting { reason } => Some(format!("waits: {reason}")),
            JobEvent::WorkerLost { worker, reason } => {
                Some(format!("worker {worker} is gone: {reason}"))
            }
            JobEvent::WorkerLeaving { worker } => {
                Some(format!("worker {worker} leaves after this step"))
            }
            JobEvent::Scaled { wanted } => {
                Some(format!("wants {}", counted(u64::from(*wanted), "worker")))
            }
            JobEvent::Epoch { .. } => Some(self.epoch(event)),
            JobEvent::Warning { message } => Some(format!("warning: {message}")),
            JobEvent::Finished {
                weights_sha256,
                ema_sha256,
                report,
            } => {
                let ema = match ema_sha256 {
                    Some(hash) => format!("\nema     {hash}"),
                    None => String::new(),
                };
                Some(format!(
                    "finished\nweights {weights_sha256}{ema}\nreport  {report}"
                ))
            }
            JobEvent::Stopped {
                global_step,
                resume,
                report,
            } => {
                let report = match report {
                    Some(report) => format!("\nreport so far: {report}"),
                    None => String::new(),
                };
                Some(format!(
                    "stopped after step {global_step}\n{resume}{report}"
                ))
            }
            JobEvent::Step { .. } | JobEvent::Checkpoint { .. } | JobEvent::Error { .. } => None,
        }
    }

    fn epoch(&self, event: &JobEvent) -> String {
        let JobEvent::Epoch {
            epoch,
            train_loss,
            val_top1,
            val_top5,
            ema_top1,
            images_per_second,
            seconds,
            ..
        } = event
        else {
            return String::new();
        };
        let epochs = self.epochs.to_string();
        let width = epochs.len();
        let ema = match ema_top1 {
            Some(top1) => format!("  ema {:>7}", percent(*top1)),
            None => String::new(),
        };
        format!(
            "epoch {epoch:>width$}/{epochs}  loss {train_loss:.3}  top-1 {:>7}  top-5 {:>7}{ema}  \
             {images_per_second:.0} images/s  {}",
            percent(*val_top1),
            percent(*val_top5),
            duration(*seconds),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epoch(ema_top1: Option<f64>) -> JobEvent {
        JobEvent::Epoch {
            epoch: 3,
            train_loss: 1.23456,
            val_loss: 1.5,
            val_top1: 0.5,
            val_top5: 0.987,
            ema_loss: ema_top1,
            ema_top1,
            ema_top5: ema_top1,
            images_per_second: 312.4,
            seconds: 12.34,
        }
    }

    #[test]
    fn an_epoch_is_one_line() {
        let mut words = Words { epochs: 30 };
        assert_eq!(
            words.line(&epoch(None)).unwrap(),
            "epoch  3/30  loss 1.235  top-1  50.0 %  top-5  98.7 %  312 images/s  12.3 s"
        );
        assert!(
            words
                .line(&epoch(Some(0.6)))
                .unwrap()
                .contains("ema  60.0 %")
        );
    }

    #[test]
    fn a_stop_says_how_to_go_on() {
        let event = JobEvent::Stopped {
            global_step: 17,
            resume: "`perennial train job.toml --resume` goes on from checkpoint 17".into(),
            report: None,
        };
        let line = Words::default().line(&event).unwrap();
        assert!(line.contains("step 17"), "{line}");
        assert!(
            line.contains("`perennial train job.toml --resume`"),
            "{line}"
        );
    }
}
