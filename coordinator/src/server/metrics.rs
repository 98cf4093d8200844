//! What the coordinator shows a Prometheus server at `/metrics`, in the OpenMetrics text format.
//! Counters count from this coordinator's start; what has to outlive it is a gauge of what the log says.

use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use perennial_proto::v1::{DeviceMemory, StatusReply, StepPhases, WorkerStatus};
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
type Seconds = Counter<f64, AtomicU64>;

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

/// Every metric that a coordinator shows, with its words, of a queue and of one job with one worker: what the
/// reference of the book is made from.
pub fn metrics_in_words() -> [String; 2] {
    let metrics = Metrics::new("flowers");
    take_one_of_each(&metrics);
    let worker = WorkerStatus {
        worker: "w1".into(),
        state: "member".into(),
        slots: 4,
        speed: 10.0,
        phases: Some(StepPhases::default()),
        device_memory: Some(DeviceMemory::default()),
    };
    let status = StatusReply {
        phase: "running".into(),
        workers: vec![worker],
        ..StatusReply::default()
    };
    [super::queue::metrics_of_none(), metrics.text(&status, 0)]
}

/// A step and an epoch in which every metric has a value.
fn take_one_of_each(metrics: &Metrics) {
    metrics.take(&JobEvent::Epoch {
        epoch: 1,
        train_loss: 1.0,
        val_loss: 1.0,
        val_top1: 0.5,
        val_top5: 1.0,
        ema_loss: Some(1.0),
        ema_top1: Some(0.5),
        ema_top5: Some(1.0),
        images_per_second: 100.0,
        seconds: 1.0,
    });
    metrics.take(&JobEvent::Step {
        epoch: 1,
        step: 1,
        global_step: 1,
        total_steps: 2,
        loss: 1.0,
        top1: 0.5,
        learning_rate: 0.001,
        grad_norm: 1.0,
        loss_scale: Some(65536.0),
        skipped: Some(false),
        images_per_second: 100.0,
        eta_seconds: 1.0,
    });
}

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
    /// Only of a job that scales its loss.
    loss_scale: Family<[Label; 0], Number>,
    epoch: Number,
    val_top1: Numbers,
    workers: Numbers,
    workers_wanted: Number,
    worker_slots: Numbers,
    worker_speed: Numbers,
    /// Only of workers with a GPU.
    device_memory: Numbers,
    device_memory_used: Numbers,
    device_memory_peak: Numbers,
    checkpoint_step: Number,
    checkpoint_time: Number,
    checkpoint_age: Number,
    goodput: Number,
    step_seconds: Seconds,
    phase_seconds: Family<[Label; 2], Seconds>,
    stall_seconds: Family<[Label; 1], Seconds>,
    reduced_bytes: Family<[Label; 1], Counter>,
    faults: Family<[Label; 1], Counter>,
    began: SystemTime,
    steps: Counter,
    steps_skipped: Counter,
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
            loss_scale: names.of("loss_scale", "Of the last step"),
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
            device_memory: names.of("worker_device_memory_bytes", "That the GPU of a worker has"),
            device_memory_used: names.of(
                "worker_device_memory_used_bytes",
                "Of these, used by whatever computes there",
            ),
            device_memory_peak: names.of(
                "worker_device_memory_peak_bytes",
                "The most that was found used since the worker began",
            ),
            checkpoint_step: names.of("checkpoint_step", "The newest checkpoint's step"),
            checkpoint_time: names.of(
                "checkpoint_timestamp_seconds",
                "When this coordinator last completed a checkpoint, in seconds since 1970",
            ),
            checkpoint_age: names.of(
                "checkpoint_age_seconds",
                "Since this coordinator last completed a checkpoint, or since it began",
            ),
            goodput: names.of(
                "goodput",
                "Share of the time since the first generation that went into steps which count",
            ),
            step_seconds: names.of("step_seconds", "Of all steps, by the slowest member"),
            phase_seconds: names.of(
                "worker_phase_seconds",
                "Of a worker's steps, by phase: data, compute, reduce, optimizer",
            ),
            stall_seconds: names.of(
                "worker_checkpoint_stall_seconds",
                "That a worker's steps waited for a checkpoint",
            ),
            reduced_bytes: names.of(
                "worker_reduced_bytes",
                "Of sums over slots that a worker sent to other members",
            ),
            faults: names.of(
                "faults",
                "Faults that the job went on from, by kind: worker, store",
            ),
            began: SystemTime::now(),
            steps: names.of("steps", "Steps applied"),
            steps_skipped: names.of(
                "steps_skipped",
                "Steps applied whose gradient was not finite: they lowered the loss scale",
            ),
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
            JobEvent::WorkerLost { .. } => {
                self.workers_lost.inc();
                self.fault("worker").inc();
            }
            JobEvent::Warning { .. } => drop(self.warnings.inc()),
            JobEvent::Step {
                loss,
                learning_rate,
                grad_norm,
                loss_scale,
                skipped,
                images_per_second,
                eta_seconds,
                ..
            } => {
                self.steps.inc();
                self.train_loss.set(*loss);
                self.learning_rate.set(*learning_rate);
                self.grad_norm.set(*grad_norm);
                if let Some(scale) = loss_scale {
                    self.loss_scale.get_or_create(&[]).set(*scale);
                }
                self.steps_skipped.inc_by(u64::from(*skipped == Some(true)));
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

    fn fault(&self, kind: &str) -> Counter {
        self.faults.get_or_create_owned(&[("kind", kind.into())])
    }

    /// Where a worker's time went. Each is a counter of its own, which goes with its worker.
    fn take_phases(&self, worker: &str, phases: &StepPhases) {
        let name = ("worker", worker.to_string());
        for (phase, seconds) in [
            ("data", phases.data),
            ("compute", phases.compute),
            ("reduce", phases.reduce),
            ("optimizer", phases.optimizer),
        ] {
            let labels = [name.clone(), ("phase", phase.into())];
            self.phase_seconds.get_or_create(&labels).inc_by(seconds);
        }
        let name = [name];
        let stall = self.stall_seconds.get_or_create(&name);
        stall.inc_by(phases.checkpoint);
        let reduced = self.reduced_bytes.get_or_create(&name);
        reduced.inc_by(phases.sent_bytes);
    }

    /// All metrics of a job that stands so, whose store had to be asked again so often.
    pub fn text(&self, status: &StatusReply, store_retries: u64) -> String {
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
        self.goodput.set(status.goodput.unwrap_or_default());
        let more = status.step_seconds - self.step_seconds.get();
        self.step_seconds.inc_by(more.max(0.0));
        let store = self.fault("store");
        store.inc_by(store_retries.saturating_sub(store.get()));
        self.fault("worker");
        let last = match self.checkpoint_time.get() {
            0.0 => self.began,
            seconds => UNIX_EPOCH + Duration::from_secs_f64(seconds),
        };
        let age = SystemTime::now().duration_since(last);
        self.checkpoint_age
            .set(age.unwrap_or_default().as_secs_f64());
        self.phase_seconds.clear();
        self.stall_seconds.clear();
        self.reduced_bytes.clear();
        // Workers come and go.
        for family in [
            &self.workers,
            &self.worker_slots,
            &self.worker_speed,
            &self.device_memory,
            &self.device_memory_used,
            &self.device_memory_peak,
        ] {
            family.clear();
        }
        for worker in &status.workers {
            let name = [("worker", worker.worker.clone())];
            self.worker_slots
                .get_or_create(&name)
                .set(f64::from(worker.slots));
            self.worker_speed.get_or_create(&name).set(worker.speed);
            if let Some(phases) = &worker.phases {
                self.take_phases(&worker.worker, phases);
            }
            if let Some(memory) = &worker.device_memory {
                for (family, bytes) in [
                    (&self.device_memory, memory.total),
                    (&self.device_memory_used, memory.used),
                    (&self.device_memory_peak, memory.peak),
                ] {
                    family.get_or_create(&name).set(bytes as f64);
                }
            }
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
    use std::collections::BTreeSet;

    use super::*;

    fn status(workers: &[(&str, &str)]) -> StatusReply {
        let workers = workers.iter().map(|(worker, state)| WorkerStatus {
            worker: (*worker).into(),
            state: (*state).into(),
            slots: 2,
            speed: 1.5,
            phases: Some(StepPhases {
                data: 0.25,
                reduce: 1.5,
                checkpoint: 0.125,
                sent_bytes: 4096,
                ..StepPhases::default()
            }),
            // `w3` computes on its cores.
            device_memory: (*worker != "w3").then_some(DeviceMemory {
                used: 2 << 30,
                total: 8 << 30,
                peak: 3 << 30,
            }),
        });
        StatusReply {
            phase: "running".into(),
            global_step: 7,
            goodput: Some(0.75),
            step_seconds: 12.5,
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
        metrics.text(&status(&[("w1", "member"), ("w2", "member")]), 2);
        let text = metrics.text(&status(&[("w2", "member"), ("w3", "joining")]), 5);
        for line in [
            "# TYPE perennial_workers_lost counter",
            "perennial_workers_lost_total{job=\"tiny\"} 2",
            "perennial_global_step{job=\"tiny\"} 7.0",
            "perennial_phase{job=\"tiny\",phase=\"running\"} 1.0",
            "perennial_phase{job=\"tiny\",phase=\"waiting\"} 0.0",
            "perennial_workers{job=\"tiny\",state=\"member\"} 1.0",
            "perennial_workers{job=\"tiny\",state=\"joining\"} 1.0",
            "perennial_worker_slots{job=\"tiny\",worker=\"w3\"} 2.0",
            "perennial_goodput{job=\"tiny\"} 0.75",
            "perennial_step_seconds_total{job=\"tiny\"} 12.5",
            "perennial_worker_phase_seconds_total{job=\"tiny\",worker=\"w2\",phase=\"data\"} 0.25",
            "perennial_worker_phase_seconds_total{job=\"tiny\",worker=\"w3\",phase=\"reduce\"} 1.5",
            "perennial_worker_checkpoint_stall_seconds_total{job=\"tiny\",worker=\"w2\"} 0.125",
            "perennial_worker_reduced_bytes_total{job=\"tiny\",worker=\"w2\"} 4096",
            "perennial_worker_device_memory_used_bytes{job=\"tiny\",worker=\"w2\"} 2147483648.0",
            "perennial_worker_device_memory_peak_bytes{job=\"tiny\",worker=\"w2\"} 3221225472.0",
            "perennial_worker_device_memory_bytes{job=\"tiny\",worker=\"w2\"} 8589934592.0",
            "perennial_faults_total{job=\"tiny\",kind=\"worker\"} 2",
            "perennial_faults_total{job=\"tiny\",kind=\"store\"} 5",
        ] {
            assert!(text.lines().any(|it| it == line), "no {line} in {text}");
        }
        assert!(!text.contains("\"w1\""), "{text}");
        assert_eq!(text.matches("memory_used_bytes{").count(), 1, "{text}");
        assert!(text.ends_with("# EOF\n"));
    }

    #[test]
    fn every_name_stands_in_the_table_of_the_documentation_and_no_other_does() {
        let metrics = Metrics::new("tiny");
        take_one_of_each(&metrics);
        let text = metrics.text(&status(&[("w1", "member")]), 0);
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let told: BTreeSet<String> = types
            .filter_map(|line| line.split_once(' '))
            .map(|(name, kind)| match kind {
                "counter" => format!("{name}_total"),
                _ => name.to_string(),
            })
            .collect();
        let page = include_str!("../../../deploy/grafana/README.md");
        let rows = page.lines().filter_map(|line| line.strip_prefix("| `"));
        let documented: BTreeSet<String> = rows
            .filter_map(|row| Some(row.split_once(['`', '{'])?.0.to_string()))
            .filter(|name| !name.starts_with("perennial_queue_"))
            .collect();
        assert_eq!(told, documented);
    }

    #[test]
    fn a_loss_scale_is_shown_of_a_job_that_has_one_and_skipped_steps_are_counted() {
        let metrics = Metrics::new("tiny");
        let step = |scaling: Option<(f64, bool)>| JobEvent::Step {
            epoch: 1,
            step: 1,
            global_step: 1,
            total_steps: 2,
            loss: 1.0,
            top1: 0.5,
            learning_rate: 0.1,
            grad_norm: f64::INFINITY,
            loss_scale: scaling.map(|(scale, _)| scale),
            skipped: scaling.map(|(_, skipped)| skipped),
            images_per_second: 1.0,
            eta_seconds: 1.0,
        };
        metrics.take(&step(None));
        let text = metrics.text(&status(&[]), 0);
        assert!(!text.contains("perennial_loss_scale{"), "{text}");
        metrics.take(&step(Some((65536.0, true))));
        metrics.take(&step(Some((32768.0, false))));
        let text = metrics.text(&status(&[]), 0);
        for line in [
            "perennial_loss_scale{job=\"tiny\"} 32768.0",
            "perennial_steps_skipped_total{job=\"tiny\"} 1",
            "perennial_steps_total{job=\"tiny\"} 3",
        ] {
            assert!(text.lines().any(|it| it == line), "no {line} in {text}");
        }
    }
}
