//! An evaluation as a job of its own: its weights are put into its folder in the store, then it is dealt to workers.

use anyhow::{Context, bail};
use perennial_coordinator::{Access, JobEvent, ServeConfig};
use perennial_plan::Spec;
use perennial_proto::v1::SubmitRequest;
use perennial_report::Report;
use perennial_store::{Job, Store};
use perennial_worker::{ComputeDevice, inference};

use super::show::Shown;
use super::{Args, Subject};
use crate::commands::operate::queued;
use crate::commands::train::share_of_cores;
use crate::events::Viewer;
use crate::job::{absolute_url, block_on, replay};
use crate::output::Output;
use crate::run::{LocalWorkers, run as run_job};
use crate::shell::{CommandLine, this_program};

/// Evaluates with so many worker processes on this machine. An evaluation that was begun before is gone on with, and
/// one that is done is not done again.
pub fn run(
    args: &Args,
    spec: &Spec,
    subject: &Subject,
    workers: u32,
    output: Output,
) -> anyhow::Result<Shown> {
    let threads = args.threads;
    let local = LocalWorkers {
        count: workers,
        threads: threads.map_or_else(|| share_of_cores(workers), usize::from),
        device: ComputeDevice::default(),
    };
    let viewer = Viewer::new(output);
    let show = |event: &JobEvent| {
        // Told in the words of a training; what came out is printed in those of an evaluation.
        use JobEvent::{Epoch, Finished, Job};
        if output.json || !matches!(event, Job { .. } | Epoch { .. } | Finished { .. }) {
            viewer.show(event);
        }
    };
    block_on(async {
        let store_url = absolute_url(&args.at.store_url().await?)?;
        let store = Store::open(&store_url)?;
        store.check_write().await?;
        let job = store.job(&spec.name)?;
        if let Some(shown) = done(&job, spec).await? {
            return Ok(shown);
        }
        keep_weights(&job, spec, subject).await?;
        let config = ServeConfig {
            listen: "127.0.0.1:0".to_string(),
            spec: spec.clone(),
            workers,
            store,
            store_url,
            resume: true,
            standby: false,
            advertise: None,
            access: Access::default(),
            resume_command: args.command_line(&this_program()).into_string(),
            command: Some(args.command_line("perennial").into_string()),
        };
        run_job(config, Some(local), show).await?;
        let shown = done(&job, spec).await?;
        shown.with_context(|| format!("job `{}` ended without a report", spec.name))
    })
}

/// Puts the evaluation into the queue.
pub fn submit(args: &Args, spec: &Spec, subject: &Subject, output: Output) -> anyhow::Result<()> {
    let status = block_on(async {
        let store = Store::open(&args.at.store_url().await?)?;
        let job = store.job(&spec.name)?;
        let queue = args.at.queue().await?;
        keep_weights(&job, spec, subject).await?;
        let request = SubmitRequest {
            spec_json: serde_json::to_string(spec)?,
            priority: args.priority,
            workers: None,
            command: args.command_line("perennial").into_string(),
        };
        Ok(queue.submit(request).await?)
    })?;
    queued(&status, &args.at, output)
}

/// Workers on other machines find the weights there, whatever becomes of the file or the checkpoint.
async fn keep_weights(job: &Job, spec: &Spec, subject: &Subject) -> anyhow::Result<()> {
    let hashes = spec.evaluate.iter().flat_map(|evaluate| evaluate.hashes());
    for (hash, classifier) in hashes.zip(&subject.classifiers) {
        job.create_weights(hash, classifier.to_safetensors()?)
            .await?;
    }
    Ok(())
}

/// What the evaluation found, if it is in the store to its end.
async fn done(job: &Job, spec: &Spec) -> anyhow::Result<Option<Shown>> {
    let Some(stored) = job.spec().await? else {
        return Ok(None);
    };
    let (_, replayed) = replay(job).await?;
    perennial_coordinator::check_same_job(spec, &stored)?;
    if stored.data.dir != spec.data.dir {
        let (name, dir) = (&stored.name, &stored.data.dir);
        bail!("job `{name}` evaluates pictures of `{dir}`: give this evaluation another --name");
    }
    let newest = job.report_steps().await?.pop();
    let (Some("finished"), Some(step)) = (replayed.ended.as_deref(), newest) else {
        return Ok(None);
    };
    let bytes = job.report(step, "json").await?;
    let report = Report::from_json(std::str::from_utf8(&bytes).context("the report is not text")?)?;
    if inference::evaluated_fingerprint(spec)? != report.data.fingerprint {
        let (name, dir) = (&stored.name, &stored.data.dir);
        bail!(
            "job `{name}` evaluated `{dir}` when it had other pictures: give this evaluation another --name"
        );
    }
    let evaluate = stored.evaluate.unwrap_or_default();
    let name = Some(stored.name);
    Ok(Some(Shown::new(name, evaluate, report.raw, report.ema)))
}

// === impl Args ===

impl Args {
    /// The command that evaluates so.
    fn command_line(&self, program: &str) -> CommandLine {
        let line = CommandLine::new(program, "evaluate").option("--weights", &self.weights);
        let line = line
            .option_if_some("--step", self.step)
            .option_if_some("--data", self.data.as_deref())
            .option_if_some("--workers", self.workers)
            .option_if_some("--threads", self.threads)
            .option_if_some("--name", self.name.as_deref())
            .option("--slots", self.slots)
            .option_if_some("--batch", self.batch);
        self.unsaid.spell(self.at.spell(line))
    }
}
