//! `perennial logs`: what happened to a job, from its store.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::bail;
use clap_complete::ArgValueCandidates;
use perennial_coordinator::queue::State;
use perennial_coordinator::{JobEvent, Told, operate};
use perennial_store::Job;

use crate::events::Words;
use crate::job::{Place, block_on};
use crate::names;
use crate::output::{self, Output, thousands};

/// Show what happened to a job: workers that came and went, epochs, checkpoints, warnings
///
/// It is read from the store, so it is there whether or not anything runs. Single steps are not in it.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    place: Place,
    /// Go on with what happens, until the job is over
    #[arg(short, long)]
    follow: bool,
    /// Only what is about this worker
    #[arg(long, value_name = "WORKER", add = ArgValueCandidates::new(names::workers))]
    worker: Option<String>,
    /// How many of the last lines to show
    #[arg(
        short = 'n',
        long,
        value_name = "N",
        default_value = "200",
        conflicts_with = "all"
    )]
    lines: usize,
    /// All of them
    #[arg(long)]
    all: bool,
}

/// How often it is looked for more.
const LOOK: Duration = Duration::from_millis(500);

pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    block_on(async {
        let job = args.place.open().await?;
        let mut journal = Journal::of(&job);
        let told = journal.read_on().await?;
        let ended = told.last().is_some_and(Told::may_be_the_last);
        if let Some(worker) = &args.worker
            && !args.follow
        {
            refuse_unknown(worker, &told, job.name())?;
        }
        let shown: Vec<Told> = told.into_iter().filter(|it| args.wants(it)).collect();
        let cut = match args.all {
            true => 0,
            false => shown.len().saturating_sub(args.lines),
        };
        let mut words = Words::default();
        if cut > 0 && !output.json {
            output::line(&format!(
                "... {} lines before these; `--all` shows them",
                thousands(cut as u64)
            ))?;
        }
        for (place, told) in shown.iter().enumerate() {
            // What was cut still decides how the rest is worded.
            let line = line(told, &mut words);
            if place >= cut {
                show(told, line, output)?;
            }
        }
        if args.follow {
            follow(args, journal, ended, words, output).await?;
        }
        Ok(())
    })
}

/// Refuses a name that no worker of the job has had.
fn refuse_unknown(worker: &str, told: &[Told], job: &str) -> anyhow::Result<()> {
    let joined = told.iter().filter_map(|told| match &told.event {
        JobEvent::WorkerJoined { worker, .. } => Some(worker.as_str()),
        _ => None,
    });
    let names: BTreeSet<&str> = joined.collect();
    if names.contains(worker) || told.iter().any(|told| told.event.concerns(worker)) {
        return Ok(());
    }
    let had = match names.is_empty() {
        true => "it has had none yet".to_string(),
        false => format!(
            "it has had {}",
            names.into_iter().collect::<Vec<_>>().join(", ")
        ),
    };
    bail!("job `{job}` has had no worker `{worker}`: {had}");
}

/// `ended`: the last thing that was told is the end of a run.
async fn follow(
    args: &Args,
    mut journal: Journal<'_>,
    mut ended: bool,
    mut words: Words,
    output: Output,
) -> anyhow::Result<()> {
    while !(ended && is_over(journal.job).await?) {
        tokio::time::sleep(LOOK).await;
        for told in journal.read_on().await? {
            ended = told.may_be_the_last();
            if args.wants(&told) {
                let line = line(&told, &mut words);
                show(&told, line, output)?;
            }
        }
    }
    Ok(())
}

fn show(told: &Told, line: Option<String>, output: Output) -> anyhow::Result<()> {
    if output.json {
        return output::line(&serde_json::to_string(told)?);
    }
    match line {
        Some(line) => output::line(&format!("{}  {line}", told.time)),
        None => Ok(()),
    }
}

/// Whether the job, whose run has ended, has none to come: one that was sent back to the queue has.
async fn is_over(job: &Job) -> anyhow::Result<bool> {
    let queue = operate::read_queue(job.store()).await?;
    let queued = queue.as_ref().and_then(|queue| queue.job(job.name()));
    Ok(!queued.is_some_and(|queued| matches!(queued.state, State::Queued | State::Running)))
}

fn line(told: &Told, words: &mut Words) -> Option<String> {
    match &told.event {
        JobEvent::Checkpoint { global_step, .. } => {
            Some(format!("checkpoint of step {}", thousands(*global_step)))
        }
        JobEvent::Error { message } => Some(format!("error: {message}")),
        event => words.line(event),
    }
}

// === impl Args ===

impl Args {
    fn wants(&self, told: &Told) -> bool {
        let worker = self.worker.as_ref();
        worker.is_none_or(|worker| told.event.concerns(worker))
    }
}

/// The events of a job, and up to where they were read.
struct Journal<'a> {
    job: &'a Job,
    last: Option<String>,
}

// === impl Journal ===

impl<'a> Journal<'a> {
    fn of(job: &'a Job) -> Self {
        Self { job, last: None }
    }

    async fn read_on(&mut self) -> anyhow::Result<Vec<Told>> {
        let mut told = Vec::new();
        for (path, lines) in self.job.events(self.last.as_deref()).await? {
            // A line of a later version is not shown.
            let lines = lines.split(|byte| *byte == b'\n');
            told.extend(lines.filter_map(|line| serde_json::from_slice::<Told>(line).ok()));
            self.last = Some(path);
        }
        Ok(told)
    }
}
