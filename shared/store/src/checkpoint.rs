//! Checkpoints: parts first, the manifest last; every byte verified when it is read.

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use perennial_plan::Cursor;
use perennial_plan::invariants::Invariant;

use crate::error::StoreError;
use crate::job::{Job, READS, from_json, to_json};
use crate::manifest::{FORMAT_VERSION, Manifest, Part, PartKind};
use crate::tensors::{self, NamedTensors};

/// Names that are tried for a part before giving up.
const ATTEMPTS: u32 = 1000;

/// A checkpoint in a listing.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckpointInfo {
    pub step: u64,
    pub cursor: Cursor,
    pub created: String,
    /// Of all parts together.
    pub bytes: u64,
    /// Validation top-1 between 0 and 1.
    pub metric: Option<f64>,
    pub weights_sha256: String,
}

// === impl CheckpointInfo ===

impl From<&Manifest> for CheckpointInfo {
    fn from(manifest: &Manifest) -> Self {
        Self {
            step: manifest.global_step,
            cursor: manifest.cursor,
            created: manifest.created.clone(),
            bytes: manifest.parts.iter().map(|part| part.bytes).sum(),
            metric: manifest.metric,
            weights_sha256: manifest.weights_sha256.clone(),
        }
    }
}

// === impl Job ===

impl Job {
    /// Writes a part of the checkpoint of `step`.
    pub async fn write_tensors(
        &self,
        step: u64,
        kind: PartKind,
        tensors: &NamedTensors,
    ) -> Result<Part, StoreError> {
        let bytes = tensors::encode(tensors)?;
        self.write_part(step, kind, bytes).await
    }

    /// Writes a part that is encoded already. A part that is there with these bytes is used; one with
    /// other bytes, left by an attempt that was killed, is passed by under another name.
    ///
    /// It goes up in one request, as large as it is: S3's multipart uploads are not create-if-absent with
    /// every server, and `object_store` completes them by overwriting. S3 takes 5 GiB that way.
    pub async fn write_part(
        &self,
        step: u64,
        kind: PartKind,
        bytes: Bytes,
    ) -> Result<Part, StoreError> {
        let sha256 = digest(bytes.clone()).await;
        for attempt in 1..=ATTEMPTS {
            let suffix = match attempt {
                1 => String::new(),
                attempt => format!(".a{attempt}"),
            };
            let kind_name = kind.as_str();
            let folder = folder(step);
            let path = format!("{folder}/{kind_name}-00001-of-00001{suffix}.safetensors");
            let object = self.path(&path);
            match self.store.create_or_same(&object, bytes.clone()).await {
                Ok(()) => {
                    return Ok(Part {
                        kind,
                        path,
                        bytes: bytes.len() as u64,
                        sha256,
                    });
                }
                Err(StoreError::Exists { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Err(StoreError::Exists {
            path: self.path(&folder(step)),
        })
    }

    /// Makes the checkpoint exist, after all its parts were seen (CK-1). One that is there with the
    /// same weights at the same cursor is fine.
    pub async fn commit(&self, manifest: &Manifest) -> Result<(), StoreError> {
        let step = manifest.global_step;
        let own = manifest.job == self.name() && manifest.format_version == FORMAT_VERSION;
        if !own {
            return Err(StoreError::Malformed {
                path: self.manifest_path(step),
                reason: format!(
                    "it is of job `{}` and format `{}`",
                    manifest.job, manifest.format_version
                ),
            });
        }
        let kind = match manifest.spec.evaluate {
            None => PartKind::Model,
            Some(_) => PartKind::Scores,
        };
        Invariant::Ck1.check(manifest.part(kind).is_some(), || {
            format!("checkpoint of step {step} has no {}", kind.as_str())
        })?;
        for part in &manifest.parts {
            let found = self.store.size(&self.path(&part.path)).await?;
            Invariant::Ck1.check(found == Some(part.bytes), || {
                let (path, expected) = (&part.path, part.bytes);
                format!("part {path} should have {expected} bytes, found {found:?}")
            })?;
        }
        let path = self.manifest_path(step);
        match self.store.create(&path, to_json(&path, manifest)?).await {
            Err(StoreError::Exists { path }) => {
                let there = self.load_manifest(step).await?;
                let same = there.weights_sha256 == manifest.weights_sha256
                    && there.ema_sha256 == manifest.ema_sha256
                    && there.cursor == manifest.cursor
                    && there.spec_identity == manifest.spec_identity;
                if same {
                    Ok(())
                } else {
                    Err(StoreError::Exists { path })
                }
            }
            result => result,
        }
    }

    /// The steps of all checkpoints, ascending. One without a manifest does not exist.
    pub async fn checkpoint_steps(&self) -> Result<Vec<u64>, StoreError> {
        let objects = self.store.list(&self.path("checkpoints")).await?;
        let mut steps: Vec<u64> = (objects.iter())
            .filter_map(|object| {
                let folder = object.path.strip_suffix("/MANIFEST.json")?;
                folder.rsplit_once('/')?.1.parse().ok()
            })
            .collect();
        steps.sort_unstable();
        Ok(steps)
    }

    /// All checkpoints, by ascending step.
    pub async fn checkpoints(&self) -> Result<Vec<CheckpointInfo>, StoreError> {
        let manifests = self.manifests().await?;
        Ok(manifests.iter().map(CheckpointInfo::from).collect())
    }

    pub(crate) async fn manifests(&self) -> Result<Vec<Manifest>, StoreError> {
        let steps = self.checkpoint_steps().await?;
        let loaded = stream::iter(steps).map(|step| async move {
            match self.load_manifest(step).await {
                // Retention was faster.
                Err(StoreError::Missing { .. }) => Ok(None),
                result => result.map(Some),
            }
        });
        let loaded: Vec<Option<Manifest>> = loaded.buffered(READS).try_collect().await?;
        Ok(loaded.into_iter().flatten().collect())
    }

    /// The manifest of the newest checkpoint. A broken one is an error, not a reason to go further back.
    /// A store that lists new objects late may for a while name an older one, which is a whole one too.
    pub async fn newest_checkpoint(&self) -> Result<Option<Manifest>, StoreError> {
        self.newest_checkpoint_up_to(u64::MAX).await
    }

    /// As [`Job::newest_checkpoint`], as if there were none after `steps` steps.
    pub async fn newest_checkpoint_up_to(
        &self,
        steps: u64,
    ) -> Result<Option<Manifest>, StoreError> {
        let all = self.checkpoint_steps().await?;
        match all.iter().rfind(|step| **step <= steps) {
            Some(step) => self.load_manifest(*step).await.map(Some),
            None => Ok(None),
        }
    }

    pub async fn load_manifest(&self, step: u64) -> Result<Manifest, StoreError> {
        #[derive(serde::Deserialize)]
        struct Versioned {
            format_version: u32,
        }
        let path = self.manifest_path(step);
        let bytes = self.store.read(&path).await?;
        let versioned: Versioned = from_json(&path, &bytes)?;
        let malformed = |reason| StoreError::Malformed {
            path: path.clone(),
            reason,
        };
        let found = versioned.format_version;
        if found != FORMAT_VERSION {
            return Err(malformed(format!(
                "format `{found}` is not format {FORMAT_VERSION}, which this program reads"
            )));
        }
        let manifest: Manifest = from_json(&path, &bytes)?;
        if manifest.global_step != step || manifest.job != self.name() {
            let (job, found) = (&manifest.job, manifest.global_step);
            return Err(malformed(format!("it is of job `{job}` step `{found}`")));
        }
        Ok(manifest)
    }

    /// The tensors of a part, after its size and SHA-256 were found to be right.
    pub async fn load_part(
        &self,
        manifest: &Manifest,
        kind: PartKind,
    ) -> Result<NamedTensors, StoreError> {
        let part = manifest.part(kind).ok_or(StoreError::NoSuchPart {
            step: manifest.global_step,
            kind: kind.as_str(),
        })?;
        tensors::decode(&self.read_part(part).await?)
    }

    /// The bytes of a part, after its size and SHA-256 were found to be right.
    pub async fn read_part(&self, part: &Part) -> Result<Bytes, StoreError> {
        let path = self.path(&part.path);
        let bytes = match self.store.read(&path).await {
            Err(StoreError::Missing { path }) => return Err(StoreError::MissingPart { path }),
            result => result?,
        };
        let found = bytes.len() as u64;
        if found != part.bytes {
            let expected = part.bytes;
            return Err(StoreError::Truncated {
                path,
                found,
                expected,
            });
        }
        let found = digest(bytes.clone()).await;
        if found != part.sha256 {
            let expected = part.sha256.clone();
            return Err(StoreError::Damaged {
                path,
                found,
                expected,
            });
        }
        Ok(bytes)
    }

    /// Reads a whole checkpoint and says everything that is wrong with it; nothing when it is sound.
    pub async fn verify_checkpoint(&self, step: u64) -> Result<Vec<StoreError>, StoreError> {
        let manifest = self.load_manifest(step).await?;
        let mut problems = Vec::new();
        for part in &manifest.parts {
            let tensors = match self.read_part(part).await {
                Ok(bytes) => tensors::decode(&bytes),
                Err(
                    error @ (StoreError::MissingPart { .. }
                    | StoreError::Truncated { .. }
                    | StoreError::Damaged { .. }
                    // Its path cannot be one.
                    | StoreError::Malformed { .. }),
                ) => Err(error),
                Err(error) => return Err(error),
            };
            let expected = match part.kind {
                PartKind::Model => Some(&manifest.weights_sha256),
                PartKind::Ema => manifest.ema_sha256.as_ref(),
                PartKind::Optimizer | PartKind::Scores => None,
            };
            match (tensors, expected) {
                (Err(problem), _) => problems.push(problem),
                (Ok(tensors), Some(expected)) => {
                    let found = tensors::weights_sha256(&tensors);
                    if found != *expected {
                        problems.push(StoreError::Damaged {
                            path: self.path(&part.path),
                            found,
                            expected: expected.clone(),
                        });
                    }
                }
                (Ok(_), None) => {}
            }
        }
        Ok(problems)
    }

    /// The path in the store of a manifest.
    pub fn manifest_path(&self, step: u64) -> String {
        self.path(&format!("{}/MANIFEST.json", folder(step)))
    }
}

/// The folder of a checkpoint in the job's.
pub(crate) fn folder(step: u64) -> String {
    format!("checkpoints/{step:012}")
}

/// SHA-256 without holding up the other tasks of this thread.
async fn digest(bytes: Bytes) -> String {
    let digest = tokio::task::spawn_blocking(move || tensors::sha256(&bytes));
    digest.await.expect("hashing does not panic")
}
