//! The machine's wishes to the store, and what a run finds there at its start.

use std::time::Duration;

use chrono::{SecondsFormat, Utc};
use perennial_plan::Spec;
use perennial_plan::invariants::Invariant;
use perennial_proto::VERSION;
use perennial_store::{FORMAT_VERSION, Job, Manifest, Part, PartKind, Retention, StoreError};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, timeout_at};

use crate::log::{LogEntry, LogRecord};
use crate::machine::{Commit, Effect, Event, ReportInput, ResumePoint, Snapshot};
use crate::replay::Replayed;
use crate::report::build_report;
use crate::server::ServeConfig;
use crate::{CoordinatorError, JobEvent, Told, check_resume, check_same_job};

/// How long events are gathered after some were written.
const JOURNAL: Duration = Duration::from_secs(1);

/// What a run finds in the store.
pub(crate) struct Opened {
    pub storage: Storage,
    pub resume: Option<ResumePoint>,
    /// From position 0 on.
    pub log: Vec<LogRecord>,
    /// What it says.
    pub replayed: Replayed,
}

/// A job's folder and what is written there.
#[derive(Clone)]
pub(crate) struct Storage {
    job: Job,
    store_url: String,
    spec: Spec,
    command: Option<String>,
}

// === impl Storage ===

impl Storage {
    /// Finds out where the job stands. Writes its spec if it has none yet, and nothing else.
    pub async fn open(config: &ServeConfig) -> Result<Opened, CoordinatorError> {
        let spec = &config.spec;
        let job = config.store.job(&spec.name)?;
        let log: Vec<LogRecord> = job.read_log(0).await?;
        let stored = job.spec().await?;
        // By the job's own spec: what is asked for may be another job, which is told below.
        let own = stored.as_ref().unwrap_or(spec);
        let replayed = Replayed::of(own, &log).map_err(StoreError::from)?;
        // A checkpoint beyond the log is of steps that were taken back. Without a log nothing can be said
        // for one, which `resume_point` tells.
        let steps = match log.is_empty() {
            true => u64::MAX,
            false => replayed.steps.len() as u64,
        };
        let newest = job.newest_checkpoint_up_to(steps).await?;
        let finished = log.iter().rev().find_map(|record| match &record.entry {
            LogEntry::Ended { how, .. } => Some(how == "finished"),
            LogEntry::Generation { .. } => Some(false),
            _ => None,
        });
        let resume = match newest {
            Some(manifest) if config.resume || config.standby => {
                match finished {
                    // The one before got as far as the last checkpoint, but not to the report.
                    Some(false) => check_same_job(spec, &manifest.spec)?,
                    _ => check_resume(spec, &manifest)?,
                }
                Some(manifest)
            }
            Some(manifest) => {
                return Err(CoordinatorError::JobExists {
                    name: spec.name.clone(),
                    global_step: manifest.global_step,
                });
            }
            None => None,
        };
        match stored {
            Some(stored) => check_same_job(spec, &stored)?,
            None => job.create_spec(spec).await?,
        }
        let resume = resume.map(|manifest| resume_point(manifest, &replayed));
        Ok(Opened {
            resume: resume.transpose()?,
            log,
            storage: Self {
                job,
                store_url: config.store_url.clone(),
                spec: spec.clone(),
                command: config.command.clone(),
            },
            replayed,
        })
    }

    /// Whether the log has an entry of a term after `term`, at or after `position`.
    pub async fn has_later_term(&self, position: u64, term: u64) -> Result<bool, StoreError> {
        let mut position = position;
        while let Some(record) = self.job.log_entry::<LogRecord>(position).await? {
            if record.term > term {
                return Ok(true);
            }
            position += 1;
        }
        Ok(false)
    }

    /// Does what the machine asks for, in its order, and says how it went. The first entry of the log is the claim of
    /// whoever has `replayed` what the log had before.
    pub async fn work_through(
        self,
        mut orders: UnboundedReceiver<Effect>,
        mut replayed: Option<Replayed>,
        reply: impl Fn(Event) + Send + 'static,
    ) {
        while let Some(order) = orders.recv().await {
            let answer = match order {
                Effect::AppendLog { position, record } => {
                    Some(self.append_log(position, &record, &mut replayed).await)
                }
                Effect::CommitCheckpoint(commit) => Some(self.commit(&commit).await),
                Effect::WriteReport(input) => Some(self.write_report(&input).await),
                Effect::Prune {
                    newest,
                    term,
                    position,
                } => {
                    if let Err(error) = self.prune(newest, term, position).await {
                        tracing::warn!(%error, "retention could not remove checkpoints");
                    }
                    None
                }
                _ => None,
            };
            answer.map(&reply);
        }
    }

    /// Keeps what is told for people, but for single steps, which are in the log: at once, and what comes within a
    /// second of that as one object after it. It is no part of the job: what cannot be written is lost.
    pub async fn keep_events(self, term: u64, mut told: UnboundedReceiver<Told>) {
        let mut batch = 0;
        let mut close = Instant::now();
        while let Some(first) = told.recv().await {
            let mut lines = Vec::new();
            add_line(&mut lines, &first);
            while let Ok(Some(next)) = timeout_at(close, told.recv()).await {
                add_line(&mut lines, &next);
            }
            if lines.is_empty() {
                continue;
            }
            close = Instant::now() + JOURNAL;
            if let Err(error) = self.job.create_events(term, batch, lines).await {
                tracing::warn!(%error, "events of the job could not be kept");
            }
            batch += 1;
        }
    }

    async fn append_log(
        &self,
        position: u64,
        record: &LogRecord,
        replayed: &mut Option<Replayed>,
    ) -> Event {
        match self.job.append_log(position, record).await {
            Ok(()) => match replayed {
                Some(before) => {
                    let event = self.claimed(before).await;
                    // It is as large as the job is long, and of no more use.
                    replayed.take_if(|_| matches!(event, Event::Claimed(_)));
                    event
                }
                None => Event::LogAppended,
            },
            Err(StoreError::LogRaceLost { .. }) => Event::LogRaceLost,
            Err(error) => Event::LogFailed(error.to_string()),
        }
    }

    /// The one before may have committed another checkpoint until now, and removed those before it.
    async fn claimed(&self, replayed: &Replayed) -> Event {
        let found = async {
            let steps = replayed.steps.len() as u64;
            let newest = self.job.newest_checkpoint_up_to(steps).await?;
            newest
                .map(|manifest| resume_point(manifest, replayed).map(Box::new))
                .transpose()
        };
        match found.await {
            Ok(newest) => Event::Claimed(newest),
            Err::<_, CoordinatorError>(error) => Event::LogFailed(error.to_string()),
        }
    }

    async fn commit(&self, commit: &Commit) -> Event {
        let global_step = commit.global_step;
        let written = async {
            let manifest = self.manifest(commit)?;
            self.job
                .commit(&manifest)
                .await
                .map_err(|error| error.to_string())
        };
        match written.await {
            Ok(()) => Event::CheckpointCommitted { global_step },
            Err(message) => Event::CheckpointNotCommitted {
                global_step,
                message,
            },
        }
    }

    fn manifest(&self, commit: &Commit) -> Result<Manifest, String> {
        let parts = commit.parts.iter().map(|part| {
            let kind = PartKind::ALL
                .into_iter()
                .find(|kind| kind.as_str() == part.kind);
            Ok(Part {
                kind: kind.ok_or_else(|| format!("a part of kind `{}` is unknown", part.kind))?,
                path: part.path.clone(),
                bytes: part.bytes,
                sha256: part.sha256.clone(),
            })
        });
        let json =
            |value: serde_json::Result<serde_json::Value>| value.map_err(|error| error.to_string());
        let (snapshot, provenance) = (&commit.snapshot, &commit.provenance);
        let (weights_sha256, ema_sha256) = commit.weights(&self.spec);
        Ok(Manifest {
            format_version: FORMAT_VERSION,
            job: self.spec.name.clone(),
            global_step: commit.global_step,
            cursor: snapshot.cursor,
            created: now(),
            spec: self.spec.clone(),
            spec_identity: self.spec.identity_hash(),
            data_fingerprint: provenance.data_fingerprint.clone(),
            numerics: provenance.numerics.clone(),
            version: VERSION.into(),
            parts: parts.collect::<Result<_, String>>()?,
            weights_sha256,
            ema_sha256,
            history: json(serde_json::to_value(&snapshot.history))?,
            progress: json(serde_json::to_value(&snapshot.progress))?,
            metric: snapshot.metric,
            generation: provenance.generation,
            ledger_head: Some(snapshot.ledger.root()),
        })
    }

    /// What could not be removed now is removed after the next checkpoint.
    async fn prune(&self, newest: u64, term: u64, position: u64) -> Result<(), StoreError> {
        // A term that begins after this look finds `newest`, which stays.
        if self.has_later_term(position, term).await? {
            return Ok(());
        }
        let retention = Retention::from(&self.spec.checkpoint);
        let removed = self.job.retain_up_to(newest, &retention).await?;
        if !removed.is_empty() {
            tracing::info!(?removed, "retention removed checkpoints");
        }
        Ok(())
    }

    async fn write_report(&self, input: &ReportInput) -> Event {
        match self.try_write_report(input).await {
            Ok(location) => Event::ReportWritten(location),
            Err(message) => Event::ReportFailed(message),
        }
    }

    /// Where the HTML lies.
    async fn try_write_report(&self, input: &ReportInput) -> Result<String, String> {
        let report = build_report(&self.spec, input, now(), self.command.clone());
        report.validate().map_err(|error| error.to_string())?;
        let formats = [
            ("json", report.to_json_pretty()),
            ("txt", report.to_text()),
            ("html", report.to_html()),
        ];
        for (format, text) in formats {
            match self
                .job
                .create_report(input.global_step, format, text)
                .await
            {
                // An earlier run evaluated the same weights.
                Ok(()) | Err(StoreError::Exists { .. }) => {}
                Err(error) => return Err(error.to_string()),
            }
        }
        Ok(format!(
            "{}/{}/reports/{:012}/report.html",
            self.store_url.trim_end_matches('/'),
            self.spec.name,
            input.global_step
        ))
    }
}

fn add_line(lines: &mut Vec<u8>, told: &Told) {
    if matches!(told.event, JobEvent::Step { .. }) {
        return;
    }
    // Plain data becomes JSON.
    if let Ok(line) = serde_json::to_vec(told) {
        lines.extend(line);
        lines.push(b'\n');
    }
}

/// The checkpoint as the machine knows it. The log must have every step before it (CK-1).
fn resume_point(manifest: Manifest, replayed: &Replayed) -> Result<ResumePoint, CoordinatorError> {
    let unreadable = |error: serde_json::Error| CoordinatorError::Unreadable {
        global_step: manifest.global_step,
        cause: error.to_string(),
    };
    let global_step = manifest.global_step;
    let ledger = replayed.root(global_step).unwrap_or_default();
    let root = Some(ledger.root());
    Invariant::Ck1
        .check(manifest.ledger_head == root, || {
            format!(
                "checkpoint {global_step} is of ledger {:?}, the log has {root:?}",
                manifest.ledger_head
            )
        })
        .map_err(StoreError::from)?;
    Ok(ResumePoint {
        global_step,
        snapshot: Snapshot {
            cursor: manifest.cursor,
            history: serde_json::from_value(manifest.history).map_err(unreadable)?,
            progress: serde_json::from_value(manifest.progress).map_err(unreadable)?,
            metric: manifest.metric,
            ledger,
        },
        numerics: manifest.numerics,
        data_fingerprint: manifest.data_fingerprint,
        weights_sha256: manifest.weights_sha256,
        ema_sha256: manifest.ema_sha256,
    })
}

/// RFC 3339 in UTC, to the second.
pub(crate) fn now() -> String {
    Utc::now().to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use perennial_store::{Store, StoreError};

    use super::*;
    use crate::audit::tests::job;
    use crate::server::Access;

    const DEPOSED: u64 = 1;
    const CLAIMING: u64 = 2;

    /// A job of six steps under one coordinator.
    async fn trained() -> (ServeConfig, Job) {
        let mut spec = job::spec();
        spec.checkpoint.keep_last = 1;
        spec.checkpoint.keep_best = 0;
        let store = Store::in_memory();
        let stored = store.job(&spec.name).unwrap();
        let steps = |epoch| [0, 1, 2].map(|at| job::step(1, epoch, at, &[0]));
        let entries = [
            job::term(),
            job::generation(1, &[("w1", 0..3)], (0, 0), None),
            job::steps(&steps(0)),
            job::epoch(1),
            job::steps(&steps(1)),
            job::epoch(2),
        ];
        for (position, entry) in (0..).zip(entries) {
            let record = record(DEPOSED, entry);
            stored.append_log(position, &record).await.unwrap();
        }
        commit(&store, &stored, 3).await;
        let config = ServeConfig {
            listen: String::new(),
            advertise: None,
            access: Access::default(),
            spec,
            workers: 1,
            store,
            store_url: String::new(),
            resume: true,
            standby: false,
            resume_command: String::new(),
            command: None,
        };
        (config, stored)
    }

    async fn commit(store: &Store, stored: &Job, global_step: u64) {
        let manifest = job::manifest(global_step, global_step as u32 / 3);
        for part in &manifest.parts {
            let path = format!("{}/{}", stored.name(), part.path);
            store.create(&path, vec![0]).await.unwrap();
        }
        stored.commit(&manifest).await.unwrap();
    }

    fn record(term: u64, entry: LogEntry) -> LogRecord {
        LogRecord {
            term,
            writer: format!("coordinator {term}"),
            entry,
        }
    }

    #[tokio::test]
    async fn a_checkpoint_committed_during_the_claim_is_found_and_the_deposed_removes_none_any_more()
     {
        let (config, stored) = trained().await;
        let Opened {
            storage,
            resume,
            log,
            replayed,
        } = Storage::open(&config).await.unwrap();
        assert_eq!(resume.map(|resume| resume.global_step), Some(3));
        commit(&config.store, &stored, 6).await;
        let claim = record(CLAIMING, job::term());
        let end = log.len() as u64;
        let claimed = storage.append_log(end, &claim, &mut Some(replayed)).await;
        let Event::Claimed(Some(newest)) = claimed else {
            panic!("{claimed:?}");
        };
        assert_eq!(newest.global_step, 6);

        let before = log.len() as u64 - 1;
        // One after the newest is of steps that are still to come again, and pushes none out.
        storage.prune(3, CLAIMING, before).await.unwrap();
        storage.prune(6, DEPOSED, before).await.unwrap();
        stored.load_manifest(3).await.unwrap();
        storage.prune(6, CLAIMING, before).await.unwrap();
        let removed = stored.load_manifest(3).await;
        assert!(matches!(removed, Err(StoreError::Missing { .. })));
        stored.load_manifest(6).await.unwrap();
    }
}
