//! Finding a job in its store, and whoever rules it.

use std::future::Future;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use clap_complete::ArgValueCandidates;
use perennial_coordinator::log::LogRecord;
use perennial_coordinator::operate::{OperateError, Ruler};
use perennial_coordinator::replay::Replayed;
use perennial_plan::Spec;
use perennial_secure::Security;
use perennial_store::{Job, Store};

use crate::names;
use crate::security::Person;
use crate::settings;
use crate::shell::CommandLine;

/// Where jobs are kept, and who rules them.
#[derive(Debug, Clone, clap::Args)]
pub struct At {
    /// The folder or s3://bucket/prefix where jobs are kept; perennial-store, or that of --coordinator, where
    /// it is left out
    #[arg(long, value_name = "URL")]
    store: Option<String>,
    /// The coordinator of the queue, in place of the one that the store names
    #[arg(long, value_name = "URL")]
    coordinator: Option<String>,
    #[command(flatten)]
    person: Person,
}

/// Where a job is kept.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The job's name, or its job file
    #[arg(add = ArgValueCandidates::new(names::jobs))]
    job: String,
    #[command(flatten)]
    at: At,
}

pub const DEFAULT_STORE: &str = "perennial-store";

// === impl At ===

impl At {
    /// The store's address.
    pub async fn store_url(&self) -> anyhow::Result<String> {
        match (&self.store, &self.coordinator) {
            (Some(store), _) => Ok(store.clone()),
            (None, Some(coordinator)) => {
                match Ruler::given(coordinator, &self.security()?).jobs().await {
                    Ok(jobs) => Ok(jobs.store_url),
                    // It has a store, and does not say which.
                    Err(OperateError::OneJob(_)) => Ok(DEFAULT_STORE.to_string()),
                    Err(error) => Err(error.into()),
                }
            }
            (None, None) => Ok(DEFAULT_STORE.to_string()),
        }
    }

    /// The store, which must be there. Creates nothing.
    pub async fn open_store(&self) -> anyhow::Result<Store> {
        open_store(&self.store_url().await?)
    }

    /// The job of this name, or of this job file. Creates nothing.
    pub async fn open(&self, job: &str) -> anyhow::Result<Job> {
        open(&self.store_url().await?, job).await
    }

    /// How coordinators are spoken with.
    pub fn security(&self) -> anyhow::Result<Security> {
        self.person.security()
    }

    /// The coordinator of the queue.
    pub async fn queue(&self) -> anyhow::Result<Ruler> {
        let security = self.security()?;
        match &self.coordinator {
            Some(coordinator) => Ok(Ruler::given(coordinator, &security)),
            None => Ok(Ruler::of_queue(&self.open_store().await?, &security).await?),
        }
    }

    /// Adds where this is to a command line.
    pub fn spell(&self, line: CommandLine) -> CommandLine {
        line.option_if_some("--store", self.store.as_deref())
            .option_if_some("--coordinator", self.coordinator.as_deref())
    }

    /// How to say where this is, in a command: ` --store URL`.
    pub fn in_words(&self) -> String {
        let store = self.store.as_ref().map(|url| format!(" --store {url}"));
        let coordinator = self.coordinator.as_ref();
        let coordinator = coordinator.map(|url| format!(" --coordinator {url}"));
        store.unwrap_or_default() + &coordinator.unwrap_or_default()
    }
}

// === impl Place ===

impl Place {
    /// The job, which must be there. Creates nothing.
    pub async fn open(&self) -> anyhow::Result<Job> {
        self.at.open(&self.job).await
    }

    /// The job of this name or job file.
    pub fn of(job: &str, at: &At) -> Self {
        Self {
            job: job.to_string(),
            at: at.clone(),
        }
    }

    pub fn at(&self) -> &At {
        &self.at
    }

    /// The job's name.
    pub fn name(&self) -> anyhow::Result<String> {
        Ok(settings::job_name(&self.job)?)
    }

    /// Whoever rules the job, and its name.
    pub async fn ruler(&self) -> anyhow::Result<(Ruler, String)> {
        let name = self.name()?;
        let security = self.at.security()?;
        if let Some(coordinator) = &self.at.coordinator {
            return Ok((Ruler::given(coordinator, &security), name));
        }
        let job = self.open().await?;
        Ok((Ruler::of_job(&job, &security).await?, name))
    }
}

/// The store, which must be there. Creates nothing.
pub fn open_store(url: &str) -> anyhow::Result<Store> {
    if !url.contains("://") && !Path::new(url).is_dir() {
        bail!("store `{url}` is not there: name the one of the job with --store");
    }
    Ok(Store::open(url)?)
}

/// The job of this name, or of this job file, in the store. Creates nothing.
pub async fn open(url: &str, job: &str) -> anyhow::Result<Job> {
    let name = settings::job_name(job)?;
    let store = open_store(url)?;
    let job = store.job(&name)?;
    if job.spec().await?.is_some() {
        return Ok(job);
    }
    let others = store.jobs().await?;
    let others = match others.as_slice() {
        [] => "it has no job at all".to_string(),
        names => format!("it has {}", names.join(", ")),
    };
    bail!("no job `{name}` in store `{url}`: {others}");
}

/// The job's spec and what its log says of it.
pub async fn replay(job: &Job) -> anyhow::Result<(Spec, Replayed)> {
    let spec = job.spec().await?.unwrap_or_default();
    let log: Vec<LogRecord> = job.read_log(0).await?;
    let replayed = Replayed::of(&spec, &log).map_err(|violation| {
        let name = job.name();
        anyhow!("the log of job `{name}` breaks a rule: {violation}; see `audit {name}`")
    })?;
    Ok((spec, replayed))
}

/// The address of a store for other processes: a folder's absolute path, an URL as it is.
pub fn absolute_url(url: &str) -> anyhow::Result<String> {
    if url.contains("://") {
        return Ok(url.to_string());
    }
    let path = std::path::absolute(url).with_context(|| format!("cannot resolve store `{url}`"))?;
    Ok(path.to_string_lossy().into_owned())
}

/// Runs `future` on a runtime of its own.
pub fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(future);
    runtime.shutdown_background();
    result
}
