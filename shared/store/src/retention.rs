//! Which checkpoints go, and how they go.

use std::collections::{BTreeMap, BTreeSet};

use perennial_plan::spec::CheckpointSpec;

use crate::checkpoint::{CheckpointInfo, folder};
use crate::error::StoreError;
use crate::job::Job;

/// Which checkpoints are kept. The newest always is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// How many of the newest.
    pub keep_last: u32,
    /// How many of the best by their metric; of equals the newer.
    pub keep_best: u32,
    /// Each whose step is a multiple of this; 0: none.
    pub keep_every: u64,
}

// === impl Retention ===

impl From<&CheckpointSpec> for Retention {
    fn from(spec: &CheckpointSpec) -> Self {
        Self {
            keep_last: spec.keep_last,
            keep_best: spec.keep_best,
            keep_every: spec.keep_every,
        }
    }
}

/// The steps of the checkpoints that are to go, ascending.
pub fn select(checkpoints: &[CheckpointInfo], retention: &Retention) -> Vec<u64> {
    let mut steps: Vec<u64> = checkpoints.iter().map(|c| c.step).collect();
    steps.sort_unstable();
    let mut best: Vec<(f64, u64)> = (checkpoints.iter())
        .filter_map(|c| Some((c.metric.filter(|metric| !metric.is_nan())?, c.step)))
        .collect();
    best.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)));

    let mut kept = BTreeSet::new();
    let last = (retention.keep_last as usize).max(1);
    kept.extend(steps.iter().rev().take(last));
    kept.extend((best.iter().take(retention.keep_best as usize)).map(|(_, step)| *step));
    if retention.keep_every > 0 {
        let every = |step: &&u64| step.is_multiple_of(retention.keep_every);
        kept.extend(steps.iter().filter(every));
    }
    steps.retain(|step| !kept.contains(step));
    steps
}

// === impl Job ===

impl Job {
    /// Removes what `retention` does not keep and returns the removed steps.
    pub async fn retain(&self, retention: &Retention) -> Result<Vec<u64>, StoreError> {
        self.retain_up_to(u64::MAX, retention).await
    }

    /// As [`Job::retain`], as if there were no checkpoints after step `newest`: those stay as they are.
    pub async fn retain_up_to(
        &self,
        newest: u64,
        retention: &Retention,
    ) -> Result<Vec<u64>, StoreError> {
        let mut checkpoints = self.checkpoints().await?;
        checkpoints.retain(|checkpoint| checkpoint.step <= newest);
        let steps = select(&checkpoints, retention);
        for step in &steps {
            match self.remove_checkpoint(*step).await {
                // Somebody else has just removed it.
                Err(StoreError::Missing { .. }) => {}
                result => result?,
            }
        }
        Ok(steps)
    }

    /// Removes a checkpoint: its manifest, then whatever of its files no other manifest names (CK-2). A
    /// manifest that listings do not know yet is not asked: one that names parts of an older checkpoint
    /// is for stores that list at once.
    pub async fn remove_checkpoint(&self, step: u64) -> Result<(), StoreError> {
        let manifest = self.load_manifest(step).await?;
        self.store.delete(&self.manifest_path(step)).await?;
        let mut files: BTreeSet<String> = (manifest.parts.iter())
            .map(|part| self.path(&part.path))
            .collect();
        let folder = self.store.list(&self.path(&folder(step))).await?;
        files.extend(folder.into_iter().map(|object| object.path));
        self.remove_unnamed(files).await
    }

    /// Removes what attempts that were killed have left of checkpoints before `step` that never came to
    /// be. Call it only when no such checkpoint is being written.
    pub async fn remove_unfinished(&self, step: u64) -> Result<(), StoreError> {
        let mut found: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for object in self.store.list(&self.path("checkpoints")).await? {
            let mut parts = object.path.split('/').skip(2);
            let of = parts.next().and_then(|folder| folder.parse::<u64>().ok());
            if let Some(of) = of.filter(|of| *of < step) {
                found.entry(of).or_default().push(object.path);
            }
        }
        let mut files = BTreeSet::new();
        for (of, left) in found {
            let manifest = self.manifest_path(of);
            // Listings may know the parts before the manifest: ask for it.
            if !left.contains(&manifest) && self.store.size(&manifest).await?.is_none() {
                files.extend(left);
            }
        }
        self.remove_unnamed(files).await
    }

    async fn remove_unnamed(&self, mut files: BTreeSet<String>) -> Result<(), StoreError> {
        for manifest in self.manifests().await? {
            files.remove(&self.manifest_path(manifest.global_step));
            for part in &manifest.parts {
                files.remove(&self.path(&part.path));
            }
        }
        for file in files {
            self.store.delete(&file).await?;
        }
        Ok(())
    }
}
