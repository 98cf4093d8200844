//! `perennial status`: where jobs stand, from their store and from the coordinator that rules.

use std::time::Duration;

use perennial_coordinator::operate;
use perennial_coordinator::replay::Replayed;
use perennial_plan::Spec;
use perennial_plan::ledger::StepRecord;
use perennial_plan::order::steps_per_epoch;
use perennial_proto::v1::StatusReply;
use perennial_report::EpochRecord;
use perennial_secure::Security;
use perennial_store::{Job, Store};
use serde::Serialize;

use crate::job::{DEFAULT_STORE, block_on, open, open_store, replay};
use crate::output::{Output, counted, duration, percent, table, thousands};
use crate::security::Person;

/// Show where a job stands, or all jobs of a store
///
/// What is stored is shown whether or not anything runs; a job that runs is asked for its workers too.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The job's name, or its job file; all jobs of the store where it is left out
    job: Option<String>,
    /// The folder or s3://bucket/prefix where the job is kept
    #[arg(long, value_name = "URL", default_value = DEFAULT_STORE)]
    store: String,
    #[command(flatten)]
    person: Person,
}

/// The last steps from which the speed is told.
const RECENT: usize = 50;
/// A coordinator that has not answered after this time does not run.
const PATIENCE: Duration = Duration::from_secs(3);

pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    let security = args.person.security()?;
    let Some(job) = &args.job else {
        let all = block_on(async { all(&open_store(&args.store)?, &security).await })?;
        return output.print(&all, || overview(&args.store, &all));
    };
    let standing =
        block_on(async { Standing::of(&open(&args.store, job).await?, &security).await })?;
    output.print(&standing, || standing.text())
}

async fn all(store: &Store, security: &Security) -> anyhow::Result<Vec<Standing>> {
    let mut all = Vec::new();
    for name in store.jobs().await? {
        all.push(Standing::of(&store.job(&name)?, security).await?);
    }
    Ok(all)
}

fn overview(store: &str, all: &[Standing]) -> String {
    if all.is_empty() {
        return format!("store `{store}` has no job");
    }
    let heads = [
        "job",
        "state",
        "workers",
        "steps",
        "done",
        "left",
        "val top-1",
        "checkpoint",
    ];
    let mut rows = vec![heads.map(String::from).to_vec()];
    rows.extend(all.iter().map(Standing::row));
    table(&rows)
}

/// Where a job stands.
#[derive(Debug, Serialize)]
struct Standing {
    job: String,
    /// `new`, `finished`, `stopped`, `interrupted`, or the phase that the coordinator is in.
    state: String,
    reason: String,
    global_step: u64,
    /// None: the data was not read yet.
    total_steps: Option<u64>,
    epochs: u32,
    /// Over the last steps that are in the log.
    images_per_second: Option<f64>,
    /// Only while it runs.
    seconds_left: Option<f64>,
    /// The last epoch that was evaluated.
    epoch: Option<EpochRecord>,
    /// The newest checkpoint's step.
    checkpoint: Option<u64>,
    /// The newest report's step.
    report: Option<u64>,
    coordinator: Option<String>,
    term: u64,
    generation: u64,
    wanted: Option<u32>,
    workers: Vec<Worker>,
}

#[derive(Debug, Serialize)]
struct Worker {
    worker: String,
    state: String,
    slots: u32,
    slots_per_second: f64,
}

// === impl Standing ===

impl Standing {
    async fn of(job: &Job, security: &Security) -> anyhow::Result<Self> {
        let (spec, replayed) = replay(job).await?;
        let answer = match &replayed {
            Replayed { term: 0, .. } | Replayed { ended: Some(_), .. } => None,
            Replayed { address, .. } => Some(ask(job, security, address).await),
        };
        let checkpoint = job.checkpoint_steps().await?.last().copied();
        let report = job.report_steps().await?.last().copied();
        Ok(Self {
            checkpoint,
            report,
            ..Self::new(job.name(), &spec, replayed, answer)
        })
    }

    /// `answer`: of the coordinator, if the log does not say already that the run is over.
    fn new(
        name: &str,
        spec: &Spec,
        replayed: Replayed,
        answer: Option<Result<StatusReply, String>>,
    ) -> Self {
        let (state, reason) = match (&answer, &replayed.ended) {
            (_, Some(how)) => (how.clone(), ended(how).to_string()),
            (None, None) => ("new".into(), "it was never started".into()),
            (Some(Ok(reply)), None) => (reply.phase.clone(), reply.reason.clone()),
            (Some(Err(cause)), None) => ("interrupted".into(), cause.clone()),
        };
        let reply = answer.and_then(Result::ok);
        let stored = replayed.steps.len() as u64;
        let global_step = reply
            .as_ref()
            .map_or(stored, |it| it.global_step.max(stored));
        let samples = replayed
            .data
            .as_ref()
            .map(|data| data.train_samples as usize);
        let total_steps = samples.map(|samples| {
            let steps = steps_per_epoch(samples, spec.train.batch_size as usize);
            u64::from(steps) * u64::from(spec.train.epochs)
        });
        let recent = &replayed.steps[replayed.steps.len().saturating_sub(RECENT)..];
        let pace = Pace::of(recent);
        let left = total_steps.map(|total| total.saturating_sub(global_step));
        let seconds_left = match (&reply, &pace, left) {
            (Some(_), Some(pace), Some(left)) => Some(left as f64 * pace.step_seconds),
            _ => None,
        };
        let workers = reply.iter().flat_map(|reply| &reply.workers);
        Self {
            job: name.to_string(),
            state,
            reason,
            global_step,
            total_steps,
            epochs: spec.train.epochs,
            images_per_second: pace.map(|pace| pace.images_per_second),
            seconds_left,
            epoch: replayed.history.last().cloned(),
            checkpoint: None,
            report: None,
            coordinator: reply.as_ref().map(|_| replayed.address.clone()),
            term: replayed.term,
            generation: replayed.last_generation,
            wanted: reply.as_ref().map(|reply| reply.wanted),
            workers: workers
                .map(|worker| Worker {
                    worker: worker.worker.clone(),
                    state: worker.state.clone(),
                    slots: worker.slots,
                    slots_per_second: worker.speed,
                })
                .collect(),
        }
    }

    fn done(&self) -> Option<f64> {
        let total = self.total_steps?;
        Some(self.global_step as f64 / total.max(1) as f64)
    }

    fn steps(&self) -> String {
        let total = self.total_steps.map_or("?".to_string(), thousands);
        format!("{} of {total}", thousands(self.global_step))
    }

    fn row(&self) -> Vec<String> {
        let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_string());
        let present = self.workers.iter().filter(|it| it.state != "gone").count();
        vec![
            self.job.clone(),
            self.state.clone(),
            or_dash((present > 0).then(|| present.to_string())),
            self.steps(),
            or_dash(self.done().map(percent)),
            or_dash(self.seconds_left.map(duration)),
            or_dash(self.epoch.as_ref().map(|epoch| percent(epoch.val_top1))),
            or_dash(self.checkpoint.map(thousands)),
        ]
    }

    fn text(&self) -> String {
        let mut facts = vec![("state", format!("{}: {}", self.state, self.reason))];
        let mut progress = format!("{} steps", self.steps());
        if let Some(done) = self.done() {
            progress += &format!(" ({})", percent(done));
        }
        if let Some(left) = self.seconds_left {
            progress += &format!(", {} left", duration(left));
        }
        facts.push(("progress", progress));
        if let Some(speed) = self.images_per_second {
            facts.push(("speed", format!("{speed:.1} images/s")));
        }
        if let Some(epoch) = &self.epoch {
            facts.push(("last epoch", self.epoch_text(epoch)));
        }
        let step = |step: Option<u64>| {
            step.map_or("none yet".to_string(), |step| {
                format!("step {}", thousands(step))
            })
        };
        facts.push(("checkpoint", step(self.checkpoint)));
        facts.push(("report", step(self.report)));
        if let (Some(address), Some(wanted)) = (&self.coordinator, self.wanted) {
            let (term, generation) = (self.term, self.generation);
            let wanted = counted(u64::from(wanted), "worker");
            facts.push((
                "coordinator",
                format!("{address}, term {term}, generation {generation}, wants {wanted}"),
            ));
        }
        let width = facts.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
        let mut text = format!("job `{}`\n", self.job);
        for (name, value) in facts {
            text += &format!("{name:<width$}  {value}\n");
        }
        if !self.workers.is_empty() {
            let heads = ["worker", "state", "slots", "slots/s"];
            let mut rows = vec![heads.map(String::from).to_vec()];
            rows.extend(self.workers.iter().map(Worker::row));
            text += &format!("\n{}", table(&rows));
        }
        text
    }

    fn epoch_text(&self, epoch: &EpochRecord) -> String {
        let ema = epoch.ema_top1.map_or(String::new(), |top1| {
            format!(", with averaged weights {}", percent(top1))
        });
        format!(
            "{} of {}: loss {:.4}, validation loss {:.4}, top-1 {}{ema}",
            epoch.epoch,
            self.epochs,
            epoch.train_loss,
            epoch.val_loss,
            percent(epoch.val_top1)
        )
    }
}

fn ended(how: &str) -> &'static str {
    match how {
        "finished" => "all epochs are done",
        _ => "`--resume` goes on with it",
    }
}

async fn ask(job: &Job, security: &Security, address: &str) -> Result<StatusReply, String> {
    let asked = tokio::time::timeout(PATIENCE, operate::status_at(job, security, address)).await;
    match asked {
        Ok(Ok(reply)) if reply.job == job.name() => Ok(reply),
        Ok(Err(operate::OperateError::Refused(reason))) => Err(reason),
        Ok(Err(operate::OperateError::Unreachable { cause, .. })) => Err(format!(
            "no coordinator answers at `{address}` ({cause}); `--resume` goes on with it"
        )),
        _ => Err(format!(
            "no coordinator answers at `{address}`; `--resume` goes on with it"
        )),
    }
}

/// How fast steps come.
struct Pace {
    images_per_second: f64,
    step_seconds: f64,
}

// === impl Pace ===

impl Pace {
    fn of(steps: &[StepRecord]) -> Option<Self> {
        let seconds: f64 = steps.iter().map(|step| step.seconds).sum();
        let samples: u64 = steps.iter().map(|step| step.samples).sum();
        (seconds > 0.0).then(|| Self {
            images_per_second: samples as f64 / seconds,
            step_seconds: seconds / steps.len() as f64,
        })
    }
}

// === impl Worker ===

impl Worker {
    fn row(&self) -> Vec<String> {
        let speed = match self.slots_per_second {
            speed if speed > 0.0 => format!("{speed:.1}"),
            _ => "-".to_string(),
        };
        vec![
            self.worker.clone(),
            self.state.clone(),
            self.slots.to_string(),
            speed,
        ]
    }
}

#[cfg(test)]
mod tests {
    use perennial_coordinator::log::DataFacts;
    use perennial_proto::v1::WorkerStatus;

    use super::*;

    fn replayed() -> Replayed {
        let step = |step| StepRecord {
            step,
            generation: 1,
            samples: 8,
            seconds: 0.5,
            ..StepRecord::default()
        };
        Replayed {
            term: 2,
            address: "10.0.0.1:7400".into(),
            last_generation: 3,
            data: Some(DataFacts {
                train_samples: 20,
                ..DataFacts::default()
            }),
            steps: (0..2).map(step).collect(),
            ..Replayed::default()
        }
    }

    fn spec() -> Spec {
        let mut spec = Spec::default();
        spec.train.epochs = 10;
        spec.train.batch_size = 8;
        spec
    }

    #[test]
    fn a_job_that_runs_tells_its_speed_its_workers_and_the_time_that_is_left() {
        let reply = StatusReply {
            job: "tiny".into(),
            phase: "running".into(),
            reason: "all members are at work".into(),
            global_step: 3,
            wanted: 2,
            workers: vec![WorkerStatus {
                worker: "w1".into(),
                state: "member".into(),
                slots: 4,
                speed: 16.04,
            }],
            ..StatusReply::default()
        };
        let standing = Standing::new("tiny", &spec(), replayed(), Some(Ok(reply)));
        assert_eq!(
            standing.text(),
            "job `tiny`\n\
             state        running: all members are at work\n\
             progress     3 of 30 steps (10.0 %), 13.5 s left\n\
             speed        16.0 images/s\n\
             checkpoint   none yet\n\
             report       none yet\n\
             coordinator  10.0.0.1:7400, term 2, generation 3, wants 2 workers\n\n\
             worker   state  slots  slots/s\n\
             w1      member      4     16.0\n"
        );
    }

    #[test]
    fn a_job_that_does_not_run_tells_why_and_nothing_of_workers() {
        let state = |replayed, answer| {
            let standing = Standing::new("tiny", &spec(), replayed, answer);
            assert_eq!((standing.seconds_left, standing.workers.len()), (None, 0));
            (standing.state, standing.reason)
        };
        let gone = Err("no coordinator answers".to_string());
        let (interrupted, reason) = state(replayed(), Some(gone));
        assert_eq!(
            (interrupted.as_str(), reason.as_str()),
            ("interrupted", "no coordinator answers")
        );
        let ended = Replayed {
            ended: Some("stopped".into()),
            ..replayed()
        };
        assert_eq!(state(ended, None).0, "stopped");
        assert_eq!(state(Replayed::default(), None).0, "new");
    }
}
