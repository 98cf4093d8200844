//! The folder of one job: spec, log and reports.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use perennial_plan::Spec;
use perennial_plan::invariants::Invariant;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::Store;
use crate::error::StoreError;

/// Small objects that are read at the same time.
pub(crate) const READS: usize = 8;

/// One job in a store.
#[derive(Debug, Clone)]
pub struct Job {
    pub(crate) store: Store,
    name: String,
}

impl Store {
    /// The job of this name, there or not.
    pub fn job(&self, name: &str) -> Result<Job, StoreError> {
        let plain = !name.is_empty()
            && !name.starts_with('.')
            && (name.chars()).all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        if !plain {
            return Err(StoreError::Malformed {
                path: name.to_owned(),
                reason: "a job's name has letters, digits, `-`, `_` and `.`".to_owned(),
            });
        }
        Ok(Job {
            store: self.clone(),
            name: name.to_owned(),
        })
    }

    /// The names of all jobs that have a spec, ascending.
    pub async fn jobs(&self) -> Result<Vec<String>, StoreError> {
        let mut jobs = Vec::new();
        for name in self.folders("").await? {
            if self.size(&format!("{name}/spec.json")).await?.is_some() {
                jobs.push(name);
            }
        }
        Ok(jobs)
    }
}

// === impl Job ===

impl Job {
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The path in the store of a path in the job's folder.
    pub(crate) fn path(&self, path: &str) -> String {
        format!("{}/{path}", self.name)
    }

    /// Writes the resolved spec; one that is there and the same is fine, another is
    /// [`StoreError::Exists`].
    pub async fn create_spec(&self, spec: &Spec) -> Result<(), StoreError> {
        let path = self.path("spec.json");
        let bytes = to_json(&path, spec)?;
        self.store.create_or_same(&path, bytes).await
    }

    /// The resolved spec, when the job has one.
    pub async fn spec(&self) -> Result<Option<Spec>, StoreError> {
        let path = self.path("spec.json");
        match self.store.read(&path).await {
            Ok(bytes) => from_json(&path, &bytes).map(Some),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Appends to the log at position `seq`, from 0 on. [`StoreError::LogRaceLost`] when another writer
    /// has taken it. Entries must name their writer: one that is there and the same counts as this
    /// writer's own, whose answer was lost. After any other error the entry may be there or come to be
    /// there: append the very same again, or step down.
    pub async fn append_log(&self, seq: u64, entry: &impl Serialize) -> Result<(), StoreError> {
        if let Some(before) = seq.checked_sub(1) {
            let there = self.store.size(&self.log_path(before)).await?.is_some();
            Invariant::Log1.check(there, || {
                format!("log position {seq} would follow {before}, which is not there")
            })?;
        }
        let path = self.log_path(seq);
        let bytes = to_json(&path, entry)?;
        match self.store.create_or_same(&path, bytes).await {
            Err(StoreError::Exists { .. }) => Err(StoreError::LogRaceLost { seq }),
            result => result,
        }
    }

    /// The entry at one position, when there is one: one request.
    pub async fn log_entry<T: DeserializeOwned>(&self, seq: u64) -> Result<Option<T>, StoreError> {
        let path = self.log_path(seq);
        match self.store.read(&path).await {
            Ok(bytes) => from_json(&path, &bytes).map(Some),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The log from position `from` on, checked to be contiguous from there. What listings do not know
    /// yet is found by asking for the next position until there is none.
    pub async fn read_log<T: DeserializeOwned>(&self, from: u64) -> Result<Vec<T>, StoreError> {
        let end = self.listed_end(from).await?;
        let entries = stream::iter(from..end).map(|seq| async move {
            let entry = self.log_entry(seq).await?;
            Invariant::Log1.check(entry.is_some(), || {
                format!("job {}: log position {seq} is missing", self.name)
            })?;
            Ok::<Option<T>, StoreError>(entry)
        });
        let entries: Vec<Option<T>> = entries.buffered(READS).try_collect().await?;
        let mut entries: Vec<T> = entries.into_iter().flatten().collect();
        while let Some(entry) = self.log_entry(from + entries.len() as u64).await? {
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Every position up to the last entry that is there, whether the log is whole or not: nothing where
    /// one is missing, [`StoreError::Malformed`] where one cannot be used.
    pub async fn scan_log<T: DeserializeOwned>(
        &self,
    ) -> Result<Vec<Result<Option<T>, StoreError>>, StoreError> {
        let end = self.listed_end(0).await?;
        let entries = stream::iter(0..end).map(|seq| self.log_entry(seq));
        let mut entries: Vec<Result<Option<T>, StoreError>> =
            entries.buffered(READS).collect().await;
        loop {
            match self.log_entry(entries.len() as u64).await {
                Ok(None) => return Ok(entries),
                Err(error) if !matches!(error, StoreError::Malformed { .. }) => return Err(error),
                entry => entries.push(entry),
            }
        }
    }

    /// The position after the last entry that listings know.
    async fn listed_end(&self, from: u64) -> Result<u64, StoreError> {
        let before = from.checked_sub(1).map(|seq| self.log_path(seq));
        let log = self.path("log");
        let objects = self.store.list_from(&log, before.as_deref()).await?;
        let listed = objects.iter().filter_map(|o| position(&o.path));
        let end = listed.max().map(|newest| newest.saturating_add(1));
        Ok(end.map_or(from, |end| end.max(from)))
    }

    /// The path in the store of a log entry.
    pub fn log_path(&self, seq: u64) -> String {
        self.path(&format!("log/{seq:08}.json"))
    }

    /// Writes the report of a step in one format: `json`, `html` or `txt`.
    pub async fn create_report(
        &self,
        step: u64,
        format: &str,
        bytes: impl Into<Bytes>,
    ) -> Result<(), StoreError> {
        let path = self.report_path(step, format);
        self.store.create_or_same(&path, bytes.into()).await
    }

    pub async fn report(&self, step: u64, format: &str) -> Result<Bytes, StoreError> {
        self.store.read(&self.report_path(step, format)).await
    }

    /// The steps that have a report, ascending.
    pub async fn report_steps(&self) -> Result<Vec<u64>, StoreError> {
        let folders = self.store.folders(&self.path("reports")).await?;
        Ok(folders
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect())
    }

    /// The path in the store of a report.
    pub fn report_path(&self, step: u64, format: &str) -> String {
        self.path(&format!("reports/{step:012}/report.{format}"))
    }
}

/// The position that the path of a log entry names.
fn position(path: &str) -> Option<u64> {
    let (_, name) = path.rsplit_once('/')?;
    name.strip_suffix(".json")?.parse().ok()
}

pub(crate) fn to_json(path: &str, value: &impl Serialize) -> Result<Bytes, StoreError> {
    let bytes = serde_json::to_vec_pretty(value).map_err(|error| StoreError::Malformed {
        path: path.to_owned(),
        reason: error.to_string(),
    })?;
    Ok(bytes.into())
}

pub(crate) fn from_json<T: DeserializeOwned>(path: &str, bytes: &[u8]) -> Result<T, StoreError> {
    serde_json::from_slice(bytes).map_err(|error| StoreError::Malformed {
        path: path.to_owned(),
        reason: error.to_string(),
    })
}
