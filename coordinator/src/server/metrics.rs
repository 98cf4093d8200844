//! What the coordinator shows a Prometheus server at `/metrics`, in the OpenMetrics text format.
//! Counters count from this coordinator's start; what has to outlive it is a gauge of what the log says.

use std::sync::atomic::AtomicU64;
use std::time::{SystemTime, UNIX_EPOCH};

use perennial_proto::v1::StatusReply;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

use crate::JobEvent;

/// The type of [`Metrics::text`].
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Number = Gauge<f64, AtomicU64>;
/// A name and its value.
type Label = (&'static str, String);
type Numbers = Family<[Label; 1], Number>;

/// Each phase of [`StatusReply::phase`], so that the others are seen to be off.
const PHASES: [&str; 9] = [
    "claiming",
    "waiting",
    "starting",
    "running",
    "halting",
    "stopping",
    "finishing",
    "ended",
    "standby",
];

#[derive(Debug)]
pub(super) struct Metrics {
    registry: Registry,
    phase: Numbers,
    term: Number,
    generation: Number,
    global_step: Number,
    total_steps: Number,
    images_per_second: Number,
    seconds_left: Number,
    train_loss: Number,
    learning_rate: Number,
    grad_norm: Number,
    epoch: Number,
    val_top1: Numbers,
    workers: Numbers,
    workers_wanted: Number,
    worker_slots: Numbers,
    worker_speed: Numbers,
    checkpoint_step: Number,
    checkpoint_time: Number,
    steps: Counter,
    generations: Counter,
    workers_lost: Counter,
    checkpoints: Counter,
    warnings: Counter,
}

/// Registers under a name, with a sentence that says what it is.
struct Names(Registry);

// === impl Names ===

impl Names {
    fn of<M: Metric + Clone + Default>(&mut self, name: &str, help: &str) -> M {
        let metric = M::default();
        self.0.register(name, help, metric.clone());
        metric
    }
}

// === impl Metrics ===

impl Metrics {
    pub fn new(job: &str) -> Self {
        let label = ("job".into(), job.to_string().into());
        let mut names = Names(Registry::with_prefix_and_labels(
            "perennial",
            std::iter::once(label),
        ));
        Self {
            phase: names.of("phase", "1 for the phase that the job is in"),
            term: names.of("term", "Rises with every coordinator that rules"),
            generation: names.of("generation", "Rises with every change of membership"),
            global_step: names.of("global_step", "Steps applied since the job's start"),
            total_steps: names.of("total_steps", "Steps of the whole job"),
            images_per_second: names.of("images_per_second", "Pictures trained a second, of late"),
            seconds_left: names.of("seconds_left", "Until the last step, at the speed of late"),
            train_loss: names.of("train_loss", "Of the last step"),
            learning_rate: names.of("learning_rate", "Of the last step"),
            grad_norm: names.of(
                "grad_norm",
                "Of the last step's mean gradient, before clipping",
            ),
            epoch: names.of("epoch", "The last epoch that was evaluated, from 1"),
            val_top1: names.of(
                "val_top1",
                "Share of right answers after the last epoch, by weights",
            ),
            workers: names.of("workers", "Workers by state"),
            workers_wanted: names.of("workers_wanted", "Workers that the job wants"),
            worker_slots: names.of("worker_slots", "Slots of each step that a worker computes"),
            worker_speed: names.of(
                "worker_slots_per_second",
                "Slots that a worker computes a second",
            ),
            checkpoint_step: names.of("checkpoint_step", "The newest checkpoint's step"),
            checkpoint_time: names.of(
                "checkpoint_timestamp_seconds",
                "When this coordinator last completed a checkpoint, in seconds since 1970",
            ),
            steps: names.of("steps", "Steps applied"),
            generations: names.of(
                "generations",
                "Changes of membership, the first one included",
            ),
            workers_lost: names.of("workers_lost", "Workers that were lost"),
            checkpoints: names.of("checkpoints", "Checkpoints that were completed"),
            warnings: names.of(
                "warnings",
                "Warnings, each of which is in the coordinator's output",
            ),
            registry: names.0,
        }
    }

    /// Takes in what happened.
    pub fn take(&self, event: &JobEvent) {
        match event {
            JobEvent::Started { .. } => drop(self.generations.inc()),
            JobEvent::WorkerLost { .. } => drop(self.workers_lost.inc()),
            JobEvent::Warning { .. } => drop(self.warnings.inc()),
            JobEvent::Step {
                loss,
                learning_rate,
                grad_norm,
                images_per_second,
                eta_seconds,
                ..
            } => {
                self.steps.inc();
                self.train_loss.set(*loss);
                self.learning_rate.set(*learning_rate);
                self.grad_norm.set(*grad_norm);
                self.images_per_second.set(*images_per_second);
                self.seconds_left.set(*eta_seconds);
            }
            JobEvent::Epoch {
                epoch,
                val_top1,
                ema_top1,
                ..
            } => {
                self.epoch.set(f64::from(*epoch));
                let of =
                    |weights: &str| self.val_top1.get_or_create(&[("weights", weights.into())]);
                of("raw").set(*val_top1);
                if let Some(top1) = ema_top1 {
                    of("ema").set(*top1);
                }
            }
            JobEvent::Checkpoint { .. } => {
                self.checkpoints.inc();
                let now = SystemTime::now().duration_since(UNIX_EPOCH);
                self.checkpoint_time
                    .set(now.unwrap_or_default().as_secs_f64());
            }
            _ => {}
        }
    }

    /// All metrics of a job that stands so.
    pub fn text(&self, status: &StatusReply) -> String {
        for phase in PHASES {
            let is = f64::from(u8::from(phase == status.phase));
            self.phase.get_or_create(&[("phase", phase.into())]).set(is);
        }
        self.term.set(status.term as f64);
        self.generation.set(status.generation as f64);
        self.global_step.set(status.global_step as f64);
        self.total_steps.set(status.total_steps as f64);
        self.workers_wanted.set(f64::from(status.wanted));
        self.checkpoint_step
            .set(status.checkpoint.unwrap_or_default() as f64);
        // Workers come and go.
        for family in [&self.workers, &self.worker_slots, &self.worker_speed] {
            family.clear();
        }
        for worker in &status.workers {
            let name = [("worker", worker.worker.clone())];
            self.worker_slots
                .get_or_create(&name)
                .set(f64::from(worker.slots));
            self.worker_speed.get_or_create(&name).set(worker.speed);
            let state = [("state", worker.state.clone())];
            self.workers.get_or_create(&state).inc();
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use perennial_proto::v1::WorkerStatus;

    use super::*;

    fn status(workers: &[(&str, &str)]) -> StatusReply {
        let workers = workers.iter().map(|(worker, state)| WorkerStatus {
            worker: (*worker).into(),
            state: (*state).into(),
            slots: 2,
            speed: 1.5,
        });
        StatusReply {
            phase: "running".into(),
            global_step: 7,
            workers: workers.collect(),
            ..StatusReply::default()
        }
    }

    #[test]
    fn the_text_has_the_job_its_counters_and_the_workers_that_are_there_now() {
        let metrics = Metrics::new("tiny");
        for _ in 0..2 {
            metrics.take(&JobEvent::WorkerLost {
                worker: "w1".into(),
                reason: String::new(),
            });
        }
        metrics.text(&status(&[("w1", "member"), ("w2", "member")]));
        let text = metrics.text(&status(&[("w2", "member"), ("w3", "joining")]));
        for line in [
            "# TYPE perennial_workers_lost counter",
            "perennial_workers_lost_total{job=\"tiny\"} 2",
            "perennial_global_step{job=\"tiny\"} 7.0",
            "perennial_phase{job=\"tiny\",phase=\"running\"} 1.0",
            "perennial_phase{job=\"tiny\",phase=\"waiting\"} 0.0",
            "perennial_workers{job=\"tiny\",state=\"member\"} 1.0",
            "perennial_workers{job=\"tiny\",state=\"joining\"} 1.0",
            "perennial_worker_slots{job=\"tiny\",worker=\"w3\"} 2.0",
        ] {
            assert!(text.lines().any(|it| it == line), "no {line} in {text}");
        }
        assert!(!text.contains("\"w1\""), "{text}");
        assert!(text.ends_with("# EOF\n"));
    }
}
