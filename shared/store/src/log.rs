//! A log: entries at positions from 0 on, each written once.

use futures::{StreamExt, TryStreamExt, stream};
use perennial_plan::invariants::Invariant;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::backend::Store;
use crate::error::StoreError;
use crate::job::{READS, from_json, to_json};

/// A folder in a store whose objects are the entries of a log.
#[derive(Debug, Clone)]
pub struct Log {
    store: Store,
    folder: String,
}

/// Where the log of the queue lies. No job has a name that begins so.
const QUEUE: &str = ".queue/log";

impl Store {
    /// The log of the queue of all jobs.
    pub fn queue(&self) -> Log {
        Log::new(self.clone(), QUEUE.to_owned())
    }
}

// === impl Log ===

impl Log {
    pub(crate) fn new(store: Store, folder: String) -> Self {
        Self { store, folder }
    }

    /// Appends at position `seq`, from 0 on. [`StoreError::LogRaceLost`] when another writer has taken it.
    /// Entries must name their writer: one that is there and the same counts as this writer's own, whose
    /// answer was lost. After any other error the entry may be there or come to be there: append the very
    /// same again, or step down.
    pub async fn append(&self, seq: u64, entry: &impl Serialize) -> Result<(), StoreError> {
        if let Some(before) = seq.checked_sub(1) {
            let there = self.store.size(&self.path(before)).await?.is_some();
            Invariant::Log1.check(there, || {
                format!("log position {seq} would follow {before}, which is not there")
            })?;
        }
        let path = self.path(seq);
        let bytes = to_json(&path, entry)?;
        match self.store.create_or_same(&path, bytes).await {
            Err(StoreError::Exists { .. }) => Err(StoreError::LogRaceLost { seq }),
            result => result,
        }
    }

    /// The entry at one position, when there is one: one request.
    pub async fn entry<T: DeserializeOwned>(&self, seq: u64) -> Result<Option<T>, StoreError> {
        let path = self.path(seq);
        match self.store.read(&path).await {
            Ok(bytes) => from_json(&path, &bytes).map(Some),
            Err(StoreError::Missing { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// The entries from position `from` on, checked to be contiguous from there. What listings do not know
    /// yet is found by asking for the next position until there is none.
    pub async fn read<T: DeserializeOwned>(&self, from: u64) -> Result<Vec<T>, StoreError> {
        let end = self.listed_end(from).await?;
        let entries = stream::iter(from..end).map(|seq| async move {
            let entry = self.entry(seq).await?;
            Invariant::Log1.check(entry.is_some(), || {
                format!("`{}`: log position {seq} is missing", self.folder)
            })?;
            Ok::<Option<T>, StoreError>(entry)
        });
        let entries: Vec<Option<T>> = entries.buffered(READS).try_collect().await?;
        let mut entries: Vec<T> = entries.into_iter().flatten().collect();
        while let Some(entry) = self.entry(from + entries.len() as u64).await? {
            entries.push(entry);
        }
        Ok(entries)
    }

    /// Every position up to the last entry that is there, whether the log is whole or not: nothing where
    /// one is missing, [`StoreError::Malformed`] where one cannot be used.
    pub async fn scan<T: DeserializeOwned>(
        &self,
    ) -> Result<Vec<Result<Option<T>, StoreError>>, StoreError> {
        let end = self.listed_end(0).await?;
        let entries = stream::iter(0..end).map(|seq| self.entry(seq));
        let mut entries: Vec<Result<Option<T>, StoreError>> =
            entries.buffered(READS).collect().await;
        loop {
            match self.entry(entries.len() as u64).await {
                Ok(None) => return Ok(entries),
                Err(error) if !matches!(error, StoreError::Malformed { .. }) => return Err(error),
                entry => entries.push(entry),
            }
        }
    }

    /// The position after the last entry that listings know.
    async fn listed_end(&self, from: u64) -> Result<u64, StoreError> {
        let before = from.checked_sub(1).map(|seq| self.path(seq));
        let objects = self
            .store
            .list_from(&self.folder, before.as_deref())
            .await?;
        let listed = objects.iter().filter_map(|o| position(&o.path));
        let end = listed.max().map(|newest| newest.saturating_add(1));
        Ok(end.map_or(from, |end| end.max(from)))
    }

    /// The path in the store of an entry.
    pub fn path(&self, seq: u64) -> String {
        format!("{}/{seq:08}.json", self.folder)
    }
}

/// The position that the path of a log entry names.
fn position(path: &str) -> Option<u64> {
    let (_, name) = path.rsplit_once('/')?;
    name.strip_suffix(".json")?.parse().ok()
}
