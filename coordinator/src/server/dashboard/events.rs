//! What happened to a job, in sentences.

use perennial_report::counted;
use serde::Serialize;

use crate::{JobEvent, Told};

/// An event for people.
#[derive(Debug, Serialize, PartialEq)]
pub struct Line {
    time: String,
    kind: Kind,
    text: String,
}

#[derive(Debug, Clone, Copy, Serialize, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Something went wrong.
    Fault,
    /// The job goes on after that, or with other members.
    Recovery,
    /// Workers come and go as they should.
    Members,
    Epoch,
    Checkpoint,
    /// Beginning and end.
    Job,
}

// === impl Line ===

impl Line {
    /// None for a single step.
    pub fn of(told: &Told) -> Option<Self> {
        let (kind, text) = in_words(&told.event)?;
        Some(Self {
            time: told.time.clone(),
            kind,
            text,
        })
    }
}

fn in_words(event: &JobEvent) -> Option<(Kind, String)> {
    Some(match event {
        JobEvent::Job {
            train_samples,
            val_samples,
            classes,
            skipped,
            ..
        } => {
            let skipped = match skipped {
                0 => String::new(),
                1 => ", 1 bad one left out".to_string(),
                bad => format!(", {bad} bad ones left out"),
            };
            let text = format!(
                "the pictures are read: {train_samples} to train on, {val_samples} to validate on, {}{skipped}",
                counted(classes.len() as u64, "class")
            );
            (Kind::Job, text)
        }
        JobEvent::WorkerJoined {
            worker,
            threads,
            ready,
            workers,
            ..
        } => {
            let threads = counted(u64::from(*threads), "thread");
            let text = format!("{worker} is ready with {threads} ({ready} of {workers})");
            (Kind::Members, text)
        }
        JobEvent::Started {
            generation,
            global_step,
            resumed_from,
            workers,
            reason,
            ..
        } => {
            let whence = match resumed_from {
                Some(checkpoint) => format!("from the checkpoint of step {checkpoint}"),
                None => format!("after step {global_step}"),
            };
            let why = match reason.as_str() {
                "" => String::new(),
                reason => format!(": {reason}"),
            };
            let kind = match (reason.is_empty(), resumed_from) {
                (true, None) => Kind::Members,
                _ => Kind::Recovery,
            };
            (
                kind,
                format!(
                    "generation {generation} goes on {whence} with {}{why}",
                    counted(u64::from(*workers), "member")
                ),
            )
        }
        JobEvent::Waiting { reason } => (Kind::Job, format!("waits: {reason}")),
        JobEvent::WorkerLost { worker, reason } => {
            (Kind::Fault, format!("{worker} is gone: {reason}"))
        }
        JobEvent::WorkerLeaving { worker } => {
            (Kind::Members, format!("{worker} leaves after this step"))
        }
        JobEvent::Scaled { wanted } => {
            let are = if *wanted == 1 { "is" } else { "are" };
            let workers = counted(u64::from(*wanted), "worker");
            (Kind::Members, format!("{workers} {are} wanted"))
        }
        JobEvent::Epoch {
            epoch,
            train_loss,
            val_top1,
            ema_top1,
            ..
        } => {
            let ema = ema_top1.map_or(String::new(), |ema| format!(", EMA {:.1} %", ema * 100.0));
            let top1 = val_top1 * 100.0;
            let text =
                format!("epoch {epoch} is done: loss {train_loss:.3}, top-1 {top1:.1} %{ema}");
            (Kind::Epoch, text)
        }
        JobEvent::Checkpoint { global_step, .. } => {
            let text = format!("the checkpoint of step {global_step} is complete");
            (Kind::Checkpoint, text)
        }
        JobEvent::Warning { message } => (Kind::Fault, message.clone()),
        JobEvent::Error { message } => (Kind::Fault, message.clone()),
        JobEvent::Finished { weights_sha256, .. } => (
            Kind::Job,
            format!("all epochs are done; weights {weights_sha256}"),
        ),
        JobEvent::Stopped { global_step, .. } => {
            (Kind::Job, format!("stopped after step {global_step}"))
        }
        JobEvent::Step { .. } => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_is_not_told_as_many() {
        let joined = |threads| JobEvent::WorkerJoined {
            worker: "w1".into(),
            address: "127.0.0.1:1".into(),
            threads,
            ready: 1,
            workers: 2,
        };
        let text = |event: JobEvent| in_words(&event).unwrap().1;
        assert_eq!(text(joined(1)), "w1 is ready with 1 thread (1 of 2)");
        assert_eq!(text(joined(3)), "w1 is ready with 3 threads (1 of 2)");
        assert_eq!(text(JobEvent::Scaled { wanted: 1 }), "1 worker is wanted");
    }

    #[test]
    fn a_loss_is_a_fault_and_what_follows_is_a_recovery() {
        let kind = |event: JobEvent| in_words(&event).unwrap().0;
        let lost = JobEvent::WorkerLost {
            worker: "w1".into(),
            reason: "its connection closed".into(),
        };
        assert_eq!(kind(lost), Kind::Fault);
        let started = |reason: &str, resumed_from| JobEvent::Started {
            generation: 2,
            epoch: 1,
            step: 3,
            global_step: 3,
            total_steps: 10,
            resumed_from,
            workers: 1,
            reason: reason.into(),
        };
        assert_eq!(kind(started("`w1` was lost", None)), Kind::Recovery);
        assert_eq!(kind(started("", Some(2))), Kind::Recovery);
        assert_eq!(kind(started("", None)), Kind::Members);
    }
}
