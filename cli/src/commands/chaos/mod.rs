//! `perennial chaos`: a job under faults, against the same job undisturbed.

mod account;
mod cluster;
mod disturb;
mod outcome;
mod plan;
mod process;
mod relay;
mod seen;
mod sockets;

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};
use perennial_coordinator::JobEvent;
use perennial_data::DataSet;
use perennial_plan::Spec;
use perennial_plan::order::batch_range;
use perennial_store::{FAULTS_VARIABLE, Job};

use self::account::Account;
use self::cluster::{Cluster, Recipe, Setup};
use self::disturb::{Drama, StoreFaults};
use self::outcome::{Hashes, Interregnum, Outcome, Row, Struck};
use self::plan::{Fault, Plan};
use self::seen::{Again, Seen, Strike, pace_between};
use super::train::{refuse_workers, share_of_cores};
use crate::exit::Interrupted;
use crate::job::{DEFAULT_STORE, absolute_url, block_on};
use crate::job_file::JobFile;
use crate::output::{self, Output, thousands};
use crate::run::Signals;

/// The undisturbed run is watched up to the first end of an epoch after this time.
const WATCHED: Duration = Duration::from_secs(60);
/// How often an undisturbed run is looked at for processes that ended.
const LOOK: Duration = Duration::from_millis(200);
/// How long a slow answer of a store that fails takes, and how many of its requests fail.
const STORE_FAULTS: &str = "rate=0.5,slow=300ms";

/// Train a job under faults, and prove that they make no difference
///
/// Trains it with one worker, undisturbed, for the weights; then with all of them and a standby coordinator
/// while faults strike, and for a minute before and after that undisturbed, for the speed. Fails when the
/// weights differ, a sample was lost or repeated, or a fault that was planned did not happen.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    file: JobFile,
    /// What strikes
    #[arg(
        long,
        value_name = "FAULTS",
        value_delimiter = ',',
        default_value = "kill,stop,partition,coordinator,store"
    )]
    faults: Vec<Fault>,
    /// How often: `10s`, `1500ms`
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = time)]
    every: Duration,
    /// Which fault comes when, and whom it strikes
    #[arg(long, value_name = "N", default_value = "0")]
    seed: u64,
    /// So many faults in all, and each must happen; as many as the job's time allows where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    count: Option<u32>,
    /// Where the runs are kept, in a folder of their own: a folder or s3://bucket/prefix
    #[arg(long, value_name = "URL", default_value = DEFAULT_STORE)]
    store: String,
    /// Worker processes
    #[arg(long, value_name = "N", default_value = "3", value_parser = clap::value_parser!(u32).range(2..))]
    workers: u32,
    /// Threads of each worker; the cores divided by the workers where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    threads: Option<u16>,
    /// Keep what each process says in this folder
    #[arg(long, value_name = "DIR")]
    logs: Option<PathBuf>,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<()> {
    let spec = args.file.sources().resolve()?;
    refuse_workers(&spec, args.workers)?;
    DataSet::open(&spec.data)?;
    let trial = Trial {
        recipe: args.recipe(&spec),
        threads: args
            .threads
            .map_or_else(|| share_of_cores(args.workers), usize::from),
        store: args.own_store()?,
        spec,
        args,
        output,
    };
    let outcome = block_on(async {
        let mut signals = Signals::new()?;
        // Whatever was started belongs to the trial's future and is killed with it.
        tokio::select! {
            outcome = trial.run() => outcome,
            () = signals.next() => Err(Interrupted.into()),
        }
    })?;
    output.print(&outcome, || format!("\n{}", outcome.text()))?;
    if !outcome.failures.is_empty() {
        bail!(outcome.failures.join("; "));
    }
    Ok(())
}

/// `10s`, `1500ms`.
fn time(text: &str) -> Result<Duration, String> {
    let milliseconds = text.strip_suffix("ms").map(str::parse::<u64>);
    let seconds = text.strip_suffix('s').map(str::parse::<f64>);
    let time = match (milliseconds, seconds) {
        (Some(Ok(milliseconds)), _) => Some(Duration::from_millis(milliseconds)),
        (None, Some(Ok(seconds))) => Duration::try_from_secs_f64(seconds).ok(),
        _ => None,
    };
    let above_zero = time.filter(|time| !time.is_zero());
    above_zero.ok_or_else(|| format!("`{text}` is not a time such as `10s` or `1500ms`"))
}

// === impl Args ===

impl Args {
    fn recipe(&self, spec: &Spec) -> Recipe {
        let mut options = Vec::new();
        let file = &self.file;
        if let Some(data) = &file.over.data {
            options.extend(["--data".to_string(), data.to_string_lossy().into_owned()]);
        }
        if let Some(what) = &file.over.on_bad_image {
            options.extend(["--on-bad-image".to_string(), what.clone()]);
        }
        for set in &file.over.set {
            options.extend(["--set".to_string(), set.clone()]);
        }
        Recipe {
            job: file.job.clone(),
            name: spec.name.clone(),
            options,
            logs: self.logs.clone(),
        }
    }

    /// A place below `--store` that no other call has.
    fn own_store(&self) -> anyhow::Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let seconds = now.unwrap_or_default().as_secs();
        let place = absolute_url(&self.store)?;
        let own = std::process::id();
        Ok(format!(
            "{}/chaos-{seconds}-{own}",
            place.trim_end_matches('/')
        ))
    }
}

/// The runs of a job.
struct Trial {
    args: Args,
    spec: Spec,
    recipe: Recipe,
    threads: usize,
    store: String,
    output: Output,
}

// === impl Trial ===

impl Trial {
    async fn run(&self) -> anyhow::Result<Outcome> {
        let workers = self.args.workers;
        self.say("▸ One worker, undisturbed: the weights that it should be")?;
        let alone = self.undisturbed_weights().await?;
        self.say(&format!("  {}", alone.weights_sha256))?;
        self.say(&format!("▸ {workers} workers, undisturbed: how fast it is"))?;
        let before = self.undisturbed_speed("undisturbed").await?;
        self.say(&format!("  {:.1} images/s", before.images_per_second()))?;
        self.say(&format!(
            "▸ {workers} workers and a standby coordinator under faults"
        ))?;
        let disturbed = self.disturbed(before.step_seconds()).await?;
        // A machine's speed drifts: what is compared lies around what it is compared with.
        self.say(&format!("▸ {workers} workers, undisturbed, once more"))?;
        let after = self.undisturbed_speed("undisturbed-again").await?;
        self.say(&format!("  {:.1} images/s", after.images_per_second()))?;
        self.sum_up(disturbed, alone, &[before, after]).await
    }

    fn say(&self, line: &str) -> anyhow::Result<()> {
        if self.output.json {
            return Ok(());
        }
        output::line(line)
    }

    fn setup(&self, run: &'static str) -> Setup {
        Setup {
            run,
            store_url: format!("{}/{run}", self.store),
            workers: self.args.workers,
            threads: self.threads,
            standby: false,
            variables: Vec::new(),
        }
    }

    async fn undisturbed_weights(&self) -> anyhow::Result<Hashes> {
        let setup = Setup {
            workers: 1,
            threads: share_of_cores(1).min(self.spec.train.slots as usize),
            ..self.setup("one-worker")
        };
        let mut recipe = self.args.recipe(&self.spec);
        // One worker is enough here, whatever the job says.
        recipe
            .options
            .extend(["--set", "elastic.min_workers=1"].map(String::from));
        let mut cluster = Cluster::start(&recipe, setup).await?;
        watch(&mut cluster, |_| false).await?;
        let cluster = cluster.wind_up().await?;
        hashes(cluster.job()).await
    }

    async fn undisturbed_speed(&self, run: &'static str) -> anyhow::Result<Stretch> {
        let mut cluster = Cluster::start(&self.recipe, self.setup(run)).await?;
        let mut first = None;
        watch(&mut cluster, |seen| {
            if matches!(seen.event, JobEvent::Step { .. }) {
                first.get_or_insert(seen.at);
            }
            let long = first.is_some_and(|first| seen.at - first >= WATCHED);
            long && matches!(seen.event, JobEvent::Epoch { .. })
        })
        .await?;
        cluster.end().await;
        self.stretch(&cluster.seen)
    }

    async fn disturbed(&self, step_seconds: f64) -> anyhow::Result<Disturbed<'_>> {
        let files = tempfile::tempdir().context("cannot make a temporary folder")?;
        let store = StoreFaults {
            switch: files.path().join("the-store-fails"),
            counts: files.path().join("failed-requests"),
        };
        let faults = format!(
            "seed={},{STORE_FAULTS},while-file={},count-file={}",
            self.args.seed,
            store.switch.display(),
            store.counts.display()
        );
        let setup = Setup {
            standby: true,
            variables: vec![(FAULTS_VARIABLE.to_string(), faults)],
            ..self.setup("disturbed")
        };
        let mut cluster = Cluster::start(&self.recipe, setup).await?;
        let Args { seed, every, .. } = self.args;
        let count = self.args.count.map(|count| count as usize);
        let plan = Plan::new(seed, &self.args.faults, every);
        let plan = plan.take(count.unwrap_or(usize::MAX));
        let mut drama = Drama::new(
            &mut cluster,
            plan.clone(),
            count.is_some(),
            step_seconds,
            store,
        );
        drama
            .play(|strike, seen| {
                // Who does not read on sees the table's error.
                let _ = self.say(&Struck::of(strike, seen).line());
            })
            .await?;
        let strikes = std::mem::take(&mut drama.strikes);
        let cluster = cluster.wind_up().await?;
        let planned: Vec<Fault> = plan
            .map(|planned| planned.fault)
            .take(count.unwrap_or(strikes.len()))
            .collect();
        Ok(Disturbed {
            cluster,
            strikes,
            planned,
        })
    }

    async fn sum_up(
        &self,
        disturbed: Disturbed<'_>,
        alone: Hashes,
        around: &[Stretch; 2],
    ) -> anyhow::Result<Outcome> {
        let Disturbed {
            mut cluster,
            strikes,
            planned,
        } = disturbed;
        let disturbed = hashes(cluster.job()).await?;
        let log = cluster.read_log().await?;
        let account = Account::of(&self.spec, log);
        let seen = &cluster.seen;
        let stretch = self.stretch(seen)?;
        let capacity = self.capacity(&cluster, &stretch);
        let mut kinds = self.args.faults.clone();
        kinds.sort();
        kinds.dedup();
        let rows: Vec<Row> = kinds
            .iter()
            .map(|kind| {
                let planned = planned.iter().filter(|fault| *fault == kind).count();
                Row::of(*kind, planned, &strikes, seen)
            })
            .collect();
        let images_per_second = stretch.images_per_second();
        let undisturbed = Stretch::mean_images_per_second(around);
        let images_per_step = account.as_ref().map_or(0.0, |(account, _)| {
            account.samples as f64 / account.steps.max(1) as f64
        });
        let same_weights = disturbed == alone;

        let mut failures = Vec::new();
        if !same_weights {
            failures.push(format!(
                "the weights are `{}` at step {}, those of one undisturbed worker `{}` at step {}",
                disturbed.weights_sha256,
                disturbed.global_step,
                alone.weights_sha256,
                alone.global_step
            ));
        }
        match &account {
            Err(violation) => failures.push(format!("the log breaks a rule: {violation}")),
            Ok((account, _)) if account.lost + account.repeated > 0 => failures.push(format!(
                "{} samples were lost and {} repeated",
                account.lost, account.repeated
            )),
            Ok(_) => {}
        }
        for row in rows.iter().filter(|row| row.happened < row.planned) {
            failures.push(format!(
                "{} of {} planned faults of the kind `{}` did not happen; train for longer, or plan fewer",
                row.planned - row.happened,
                row.planned,
                row.fault.as_str()
            ));
        }
        if planned.is_empty() {
            failures.push("the job was over before the first fault; train for longer".to_string());
        }
        let steps = account.as_ref().map(|(_, replayed)| &replayed.steps[..]);
        Ok(Outcome {
            job: self.spec.name.clone(),
            seed: self.args.seed,
            workers: self.args.workers,
            threads: self.threads,
            store: self.store.clone(),
            without_coordinator: Interregnum::of(&strikes, seen, steps.unwrap_or_default()),
            faults: rows,
            strikes: strikes
                .iter()
                .map(|strike| Struck::of(strike, seen))
                .collect(),
            computed_again: Again::of(seen),
            account: account.ok().map(|(account, _)| account),
            undisturbed_images_per_second: undisturbed,
            images_per_second,
            capacity,
            goodput: images_per_second / (undisturbed * capacity),
            images_per_second_between_faults: pace_between(&strikes, seen)
                .map(|pace| pace * images_per_step),
            seconds: stretch.seconds(),
            undisturbed: alone,
            disturbed,
            same_weights,
            ended_by_themselves: cluster.unplanned.clone(),
            failures,
        })
    }

    /// The share of the undisturbed run's capacity that was there. Threads beyond the machine's cores are
    /// worth nothing, so a worker that is missing among too many of them costs less than its share.
    fn capacity(&self, cluster: &Cluster<'_>, stretch: &Stretch) -> f64 {
        let cores = std::thread::available_parallelism().map_or(1, usize::from) as u64;
        let threads = self.threads as u64;
        let worth = |workers: u64| (workers * threads).min(cores) as f64;
        let whole = worth(u64::from(self.args.workers));
        let share = |workers: u64| worth(workers) / whole;
        let integral = cluster.workforce.integral(stretch.from, stretch.to, share);
        integral / stretch.seconds()
    }

    /// From the first step to the end of the last epoch that was seen.
    fn stretch(&self, seen: &[Seen]) -> anyhow::Result<Stretch> {
        let steps = || {
            seen.iter()
                .filter_map(|seen| Some((seen.at, seen.global_step()?)))
        };
        let ends = seen.iter().rev();
        let mut ends = ends.filter(|seen| matches!(seen.event, JobEvent::Epoch { .. }));
        let samples = seen.iter().find_map(|seen| match seen.event {
            JobEvent::Job { train_samples, .. } => Some(train_samples as usize),
            _ => None,
        });
        let (Some((from, first)), Some(end), Some(samples)) =
            (steps().next(), ends.next(), samples)
        else {
            bail!("the run ended before its first epoch did");
        };
        let to = end.at;
        let last = steps()
            .filter(|(at, _)| *at <= to)
            .map(|(_, step)| step)
            .max();
        let last = last.unwrap_or(first);
        let batch = self.spec.train.batch_size as usize;
        let per_epoch = samples.div_ceil(batch).max(1) as u64;
        let images = (first..last)
            .map(|step| batch_range(samples, batch, (step % per_epoch) as u32).len() as u64)
            .sum();
        if to <= from || last <= first {
            bail!("a run of {} is too short to measure", thousands(last));
        }
        Ok(Stretch {
            from,
            to,
            steps: last - first,
            images,
        })
    }
}

/// The run under faults, once it is over.
struct Disturbed<'r> {
    cluster: Cluster<'r>,
    strikes: Vec<Strike>,
    planned: Vec<Fault>,
}

/// A part of a run.
struct Stretch {
    from: Duration,
    to: Duration,
    steps: u64,
    images: u64,
}

// === impl Stretch ===

impl Stretch {
    fn seconds(&self) -> f64 {
        (self.to - self.from).as_secs_f64()
    }

    fn images_per_second(&self) -> f64 {
        self.images as f64 / self.seconds()
    }

    fn step_seconds(&self) -> f64 {
        self.seconds() / self.steps as f64
    }

    /// Each counts as much as the other, however long it is.
    fn mean_images_per_second(stretches: &[Self; 2]) -> f64 {
        stretches.iter().map(Self::images_per_second).sum::<f64>() / 2.0
    }
}

/// Watches an undisturbed run until it is done or `enough` is seen.
async fn watch(
    cluster: &mut Cluster<'_>,
    mut enough: impl FnMut(&Seen) -> bool,
) -> anyhow::Result<()> {
    let mut looks = tokio::time::interval(LOOK);
    loop {
        tokio::select! {
            biased;
            told = cluster.told() => {
                let seen = cluster.take(told).await?;
                match &seen.event {
                    JobEvent::Finished { .. } => return Ok(()),
                    JobEvent::Error { message } => bail!("{message}"),
                    JobEvent::WorkerLost { worker, reason } => {
                        bail!("worker `{worker}` was lost in an undisturbed run: {reason}")
                    }
                    _ if enough(seen) => return Ok(()),
                    _ => {}
                }
            }
            _ = looks.tick() => {
                cluster.look_for_ends()?;
            }
        }
    }
}

async fn hashes(job: &Job) -> anyhow::Result<Hashes> {
    let newest = job.newest_checkpoint().await?;
    let newest = newest.with_context(|| format!("job `{}` has no checkpoint", job.name()))?;
    Ok(Hashes {
        global_step: newest.global_step,
        weights_sha256: newest.weights_sha256,
        ema_sha256: newest.ema_sha256,
    })
}
