//! What is in the store of jobs that somebody looks at, read on from where the last look ended.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex as Lock, PoisonError};
use std::time::Duration;

use perennial_store::{Store, StoreError};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::record::Record;

/// Jobs that are kept in memory; one of a million steps takes about 150 MB.
const KEPT: usize = 8;
/// How old the list of all jobs may be: in a bucket it costs a request for each.
const LIST_AGE: Duration = Duration::from_secs(15);

pub(super) struct Records {
    store: Store,
    /// The one that was looked at last is in front.
    kept: Lock<VecDeque<(String, Arc<Mutex<Record>>)>>,
    listed: Mutex<Option<(Instant, Vec<String>)>>,
}

// === impl Records ===

impl Records {
    pub fn new(store: Store) -> Self {
        Self {
            store,
            kept: Lock::default(),
            listed: Mutex::default(),
        }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The names of all jobs in the store.
    pub async fn stored(&self) -> Result<Vec<String>, StoreError> {
        let mut listed = self.listed.lock().await;
        if let Some((at, names)) = &*listed
            && at.elapsed() < LIST_AGE
        {
            return Ok(names.clone());
        }
        let names = self.store.jobs().await?;
        *listed = Some((Instant::now(), names.clone()));
        Ok(names)
    }

    /// The job of this name, if it is in the store.
    pub async fn of(&self, name: &str) -> Result<Option<Arc<Mutex<Record>>>, StoreError> {
        if let Some(record) = self.look_up(name) {
            return Ok(Some(record));
        }
        let job = self.store.job(name)?;
        let Some(spec) = job.spec().await? else {
            return Ok(None);
        };
        let record = Arc::new(Mutex::new(Record::new(job, spec)));
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_front((name.to_string(), record.clone()));
        kept.truncate(KEPT);
        Ok(Some(record))
    }

    fn look_up(&self, name: &str) -> Option<Arc<Mutex<Record>>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let place = kept.iter().position(|(job, _)| job == name)?;
        let found = kept.remove(place)?;
        let record = found.1.clone();
        kept.push_front(found);
        Some(record)
    }
}
