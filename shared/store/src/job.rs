//! The folder of one job: spec, log, events and reports.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use perennial_plan::Spec;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::Store;
use crate::error::StoreError;
use crate::log::Log;

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

    fn log(&self) -> Log {
        Log::new(self.store.clone(), self.path("log"))
    }

    /// See [`Log::append`].
    pub async fn append_log(&self, seq: u64, entry: &impl Serialize) -> Result<(), StoreError> {
        self.log().append(seq, entry).await
    }

    /// See [`Log::entry`].
    pub async fn log_entry<T: DeserializeOwned>(&self, seq: u64) -> Result<Option<T>, StoreError> {
        self.log().entry(seq).await
    }

    /// See [`Log::read`].
    pub async fn read_log<T: DeserializeOwned>(&self, from: u64) -> Result<Vec<T>, StoreError> {
        self.log().read(from).await
    }

    /// See [`Log::scan`].
    pub async fn scan_log<T: DeserializeOwned>(
        &self,
    ) -> Result<Vec<Result<Option<T>, StoreError>>, StoreError> {
        self.log().scan().await
    }

    /// The path in the store of a log entry.
    pub fn log_path(&self, seq: u64) -> String {
        self.log().path(seq)
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

    /// Keeps weights that the job evaluates, a safetensors file of tensors with this hash. Written once.
    pub async fn create_weights(
        &self,
        sha256: &str,
        bytes: impl Into<Bytes>,
    ) -> Result<(), StoreError> {
        let path = self.weights_path(plain(sha256)?);
        match self.store.create_or_same(&path, bytes.into()).await {
            // The same tensors with another header: whoever reads them looks at the tensors' hash.
            Err(StoreError::Exists { .. }) => Ok(()),
            result => result,
        }
    }

    /// What [`Job::create_weights`] wrote; whether the tensors have that hash is for the reader to see.
    pub async fn weights(&self, sha256: &str) -> Result<Bytes, StoreError> {
        self.store.read(&self.weights_path(plain(sha256)?)).await
    }

    /// The path in the store of weights that the job evaluates.
    pub fn weights_path(&self, sha256: &str) -> String {
        self.path(&format!("weights/{sha256}.safetensors"))
    }

    /// Keeps lines of JSON about what happened in a term: its `seq`-th batch.
    pub async fn create_events(
        &self,
        term: u64,
        seq: u64,
        lines: impl Into<Bytes>,
    ) -> Result<(), StoreError> {
        let path = self.path(&format!("events/{term:06}-{seq:06}.jsonl"));
        self.store.create_or_same(&path, lines.into()).await
    }

    /// The batches of events behind the one at the path `after`, oldest first: their paths and lines.
    pub async fn events(&self, after: Option<&str>) -> Result<Vec<(String, Bytes)>, StoreError> {
        let objects = self.store.list_from(&self.path("events"), after).await?;
        let batches = stream::iter(objects).map(|object| async move {
            let bytes = self.store.read(&object.path).await?;
            Ok::<_, StoreError>((object.path, bytes))
        });
        batches.buffered(READS).try_collect().await
    }

    /// The path in the store of a report.
    pub fn report_path(&self, step: u64, format: &str) -> String {
        self.path(&format!("reports/{step:012}/report.{format}"))
    }
}

/// A hash that comes from elsewhere is no path.
fn plain(sha256: &str) -> Result<&str, StoreError> {
    match sha256.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        true => Ok(sha256),
        false => Err(StoreError::Malformed {
            path: sha256.to_owned(),
            reason: "a hash has hexadecimal digits".to_owned(),
        }),
    }
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
