//! A job's numbers for TensorBoard: by which names they go, and into which file.

use std::fs::{File, OpenOptions};
use std::io::{self, BufWriter};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use perennial_coordinator::JobEvent;
use perennial_plan::ledger::StepRecord;
use perennial_report::EpochRecord;
use perennial_report::events::EventWriter;

/// What a step says. Accuracies are shares (0..1).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct StepScalars {
    pub loss: f64,
    pub top1: f64,
    pub learning_rate: f64,
    pub grad_norm: f64,
    /// What the loss was multiplied by, and whether the step was skipped: where the job scales its loss.
    pub scaling: Option<(f64, bool)>,
    pub images_per_second: f64,
}

/// What an evaluation says.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EpochScalars {
    /// Loss, top-1 and top-5.
    pub raw: [f64; 3],
    pub ema: Option<[f64; 3]>,
}

/// A new event file in the job's folder, which is a run of TensorBoard's.
pub struct EventFile {
    pub path: PathBuf,
    writer: EventWriter<BufWriter<File>>,
}

/// Writes what happens to a job as it happens. Nobody stops training because of it.
pub struct Recorder {
    dir: Option<PathBuf>,
    file: Option<EventFile>,
    global_step: u64,
}

// === impl StepScalars ===

impl StepScalars {
    fn named(&self) -> Vec<(&'static str, f64)> {
        let mut named = vec![
            ("train/loss", self.loss),
            ("train/top1", self.top1),
            ("train/learning_rate", self.learning_rate),
            ("train/grad_norm", self.grad_norm),
            ("train/images_per_second", self.images_per_second),
        ];
        if let Some((scale, skipped)) = self.scaling {
            named.push(("train/loss_scale", scale));
            named.push(("train/skipped", f64::from(u8::from(skipped))));
        }
        named
    }
}

impl From<&StepRecord> for StepScalars {
    fn from(record: &StepRecord) -> Self {
        let samples = record.samples as f64;
        Self {
            loss: record.loss_sum / samples,
            top1: record.top1 as f64 / samples,
            learning_rate: record.learning_rate,
            grad_norm: record.grad_norm,
            scaling: record.loss_scale.map(|scale| (scale, record.skipped)),
            images_per_second: samples / record.seconds,
        }
    }
}

// === impl EpochScalars ===

impl EpochScalars {
    fn named(&self) -> Vec<(&'static str, f64)> {
        let raw = ["validation/loss", "validation/top1", "validation/top5"];
        let ema = ["ema/loss", "ema/top1", "ema/top5"];
        let ema = self.ema.map(|values| ema.into_iter().zip(values));
        raw.into_iter()
            .zip(self.raw)
            .chain(ema.into_iter().flatten())
            .collect()
    }

    fn new(raw: [f64; 3], ema: [Option<f64>; 3]) -> Self {
        let ema = match ema {
            [Some(loss), Some(top1), Some(top5)] => Some([loss, top1, top5]),
            _ => None,
        };
        Self { raw, ema }
    }
}

impl From<&EpochRecord> for EpochScalars {
    fn from(record: &EpochRecord) -> Self {
        Self::new(
            [record.val_loss, record.val_top1, record.val_top5],
            [record.ema_loss, record.ema_top1, record.ema_top5],
        )
    }
}

// === impl EventFile ===

impl EventFile {
    /// In `dir`/`job`, by a name that no other file there has.
    pub fn create(dir: &Path, job: &str, wall_time: f64) -> anyhow::Result<Self> {
        let folder = dir.join(job);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make the folder `{}`", folder.display()))?;
        // TensorBoard reads the files of a folder in the order of their names.
        let (now, process) = (now(), std::process::id());
        let name = format!("events.out.tfevents.{now:020.6}.perennial.{process}");
        let path = folder.join(name);
        let write = || {
            let file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .open(&path)?;
            EventWriter::new(BufWriter::new(file), wall_time)
        };
        let writer = write().with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(Self { path, writer })
    }

    /// What older files of the folder, or this one, have for this step and later ones is shown no more.
    pub fn restart(&mut self, wall_time: f64, step: u64) -> io::Result<()> {
        self.writer.restart(wall_time, step)
    }

    /// `step` is the number of steps applied since the start of the job.
    pub fn step(&mut self, wall_time: f64, step: u64, scalars: &StepScalars) -> io::Result<()> {
        self.writer.scalars(wall_time, step, &scalars.named())
    }

    pub fn epoch(&mut self, wall_time: f64, step: u64, scalars: &EpochScalars) -> io::Result<()> {
        self.writer.scalars(wall_time, step, &scalars.named())
    }

    pub fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

// === impl Recorder ===

impl Recorder {
    /// In `dir`, or nowhere.
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self {
            dir,
            file: None,
            global_step: 0,
        }
    }

    pub fn record(&mut self, event: &JobEvent) {
        if let Err(error) = self.try_record(event) {
            tracing::warn!("no more is written for TensorBoard: {error:#}");
            (self.dir, self.file) = (None, None);
        }
    }

    fn try_record(&mut self, event: &JobEvent) -> anyhow::Result<()> {
        let now = now();
        match (event, &mut self.file) {
            (JobEvent::Job { name, .. }, None) => {
                if let Some(dir) = &self.dir {
                    self.file = Some(EventFile::create(dir, name, now)?);
                }
            }
            (JobEvent::Started { global_step, .. }, Some(file)) => {
                self.global_step = *global_step;
                file.restart(now, global_step + 1)?;
            }
            (
                JobEvent::Step {
                    global_step,
                    loss,
                    top1,
                    learning_rate,
                    grad_norm,
                    loss_scale,
                    skipped,
                    images_per_second,
                    ..
                },
                Some(file),
            ) => {
                self.global_step = *global_step;
                let scalars = StepScalars {
                    loss: *loss,
                    top1: *top1,
                    learning_rate: *learning_rate,
                    grad_norm: *grad_norm,
                    scaling: loss_scale.zip(*skipped),
                    images_per_second: *images_per_second,
                };
                file.step(now, *global_step, &scalars)?;
                file.flush()?;
            }
            (
                JobEvent::Epoch {
                    val_loss,
                    val_top1,
                    val_top5,
                    ema_loss,
                    ema_top1,
                    ema_top5,
                    ..
                },
                Some(file),
            ) => {
                let raw = [*val_loss, *val_top1, *val_top5];
                let scalars = EpochScalars::new(raw, [*ema_loss, *ema_top1, *ema_top5]);
                file.epoch(now, self.global_step, &scalars)?;
                file.flush()?;
            }
            _ => {}
        }
        Ok(())
    }
}

/// Seconds since 1970.
pub fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0.0, |since| since.as_secs_f64())
}
