//! Finding a job in its store.

use std::future::Future;
use std::path::Path;

use anyhow::{Context, anyhow, bail};
use perennial_coordinator::log::LogRecord;
use perennial_coordinator::replay::Replayed;
use perennial_plan::Spec;
use perennial_store::{Job, Store};

use crate::settings;

/// Where a job is kept.
#[derive(Debug, clap::Args)]
pub struct Place {
    /// The job's name, or its job file
    job: String,
    /// The folder or s3://bucket/prefix where the job is kept
    #[arg(long, value_name = "URL", default_value = DEFAULT_STORE)]
    store: String,
}

pub const DEFAULT_STORE: &str = "perennial-store";

// === impl Place ===

impl Place {
    /// The job, which must be there. Creates nothing.
    pub async fn open(&self) -> anyhow::Result<Job> {
        self.open_other(&self.job).await
    }

    /// Another job of the same store.
    pub async fn open_other(&self, job: &str) -> anyhow::Result<Job> {
        open(&self.store, job).await
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
