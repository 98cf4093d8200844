//! One job as its store tells it: log, events, checkpoints and reports.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use perennial_plan::Spec;
use perennial_plan::ledger::LedgerRoot;
use perennial_report::{Report, Stretch};
use perennial_store::{Job, Manifest, StoreError};
use tokio::time::Instant;

use crate::Told;
use crate::log::{LogEntry, LogRecord};
use crate::replay::Replayed;

/// How old an answer may be: several who look at once cost the store no more than one.
const AGE: Duration = Duration::from_millis(800);
/// How old the lists of checkpoints and reports may be.
const LIST_AGE: Duration = Duration::from_secs(3);
/// Events that are kept, the latest ones.
const EVENTS: usize = 300;

/// What is known of a job.
pub(super) struct Record {
    pub job: Job,
    pub spec: Spec,
    pub state: Replayed,
    /// Of the steps in the state.
    pub root: LedgerRoot,
    /// Why the log cannot be believed, and what came behind that is not read.
    pub broken: Option<String>,
    pub events: VecDeque<Told>,
    pub checkpoints: BTreeMap<u64, Checkpoint>,
    /// The steps that have a report.
    pub reports: Vec<u64>,
    /// The newest one.
    pub report: Option<(u64, Box<Report>)>,
    memberships: Vec<Membership>,
    /// The next position of the log, and who wrote the one before.
    position: u64,
    writer: String,
    last_events: Option<String>,
    looked: Option<Instant>,
    listed: Option<Instant>,
}

/// A generation, as far as its members' slots are concerned.
struct Membership {
    /// The first step, from 0.
    start: u64,
    members: Vec<(String, u32)>,
}

/// A checkpoint, and whether the log says the same.
pub(super) struct Checkpoint {
    pub manifest: Manifest,
    /// Whether its ledger's root is that of the log. None: the log is not so far.
    pub agrees: Option<bool>,
}

// === impl Record ===

impl Record {
    pub fn new(job: Job, spec: Spec) -> Self {
        Self {
            job,
            spec,
            state: Replayed::default(),
            root: LedgerRoot::default(),
            broken: None,
            events: VecDeque::new(),
            checkpoints: BTreeMap::new(),
            reports: Vec::new(),
            report: None,
            memberships: Vec::new(),
            position: 0,
            writer: String::new(),
            last_events: None,
            looked: None,
            listed: None,
        }
    }

    /// Reads what is new in the store.
    pub async fn refresh(&mut self) -> Result<(), StoreError> {
        if self.looked.is_some_and(|at| at.elapsed() < AGE) {
            return Ok(());
        }
        self.read_log().await?;
        self.read_events().await?;
        if self.listed.is_none_or(|at| at.elapsed() >= LIST_AGE) {
            self.read_checkpoints().await?;
            self.read_reports().await?;
            self.listed = Some(Instant::now());
        }
        self.looked = Some(Instant::now());
        Ok(())
    }

    async fn read_log(&mut self) -> Result<(), StoreError> {
        if self.broken.is_some() {
            return Ok(());
        }
        let entries: Vec<LogRecord> = self.job.read_log(self.position).await?;
        for entry in entries {
            self.take(entry);
        }
        let steps = &self.state.steps;
        if self.root.count() > steps.len() as u64 {
            self.root = LedgerRoot::default();
        }
        for step in &steps[self.root.count() as usize..] {
            self.root.push(step);
        }
        Ok(())
    }

    fn take(&mut self, entry: LogRecord) {
        if self.broken.is_some() {
            return;
        }
        let before = self.state.steps.len();
        let position = self.position as usize;
        let taken = (self.state).take(&self.spec, position, &entry, &self.writer);
        if let Err(violation) = taken {
            let name = self.job.name();
            self.broken = Some(format!(
                "the log of job `{name}` breaks a rule: {violation}; see `perennial audit {name}`"
            ));
            return;
        }
        if self.state.steps.len() < before {
            // What was computed anew may have another account.
            self.root = LedgerRoot::default();
        }
        if let LogEntry::Generation { generation, .. } = &entry.entry {
            let members = generation.members.iter();
            self.memberships.push(Membership {
                start: self.state.steps.len() as u64,
                members: members
                    .map(|member| (member.worker.clone(), member.slots.len() as u32))
                    .collect(),
            });
        }
        self.position += 1;
        self.writer = entry.writer;
    }

    async fn read_events(&mut self) -> Result<(), StoreError> {
        for (path, lines) in self.job.events(self.last_events.as_deref()).await? {
            // A line of a later version is not shown.
            let lines = lines.split(|byte| *byte == b'\n');
            let told = lines.filter_map(|line| serde_json::from_slice::<Told>(line).ok());
            self.events.extend(told);
            self.last_events = Some(path);
        }
        let too_many = self.events.len().saturating_sub(EVENTS);
        self.events.drain(..too_many);
        Ok(())
    }

    async fn read_checkpoints(&mut self) -> Result<(), StoreError> {
        let steps = self.job.checkpoint_steps().await?;
        self.checkpoints.retain(|step, _| steps.contains(step));
        for step in steps {
            if !self.checkpoints.contains_key(&step) {
                match self.job.load_manifest(step).await {
                    Ok(manifest) => {
                        let agrees = None;
                        self.checkpoints
                            .insert(step, Checkpoint { manifest, agrees });
                    }
                    // Retention was faster.
                    Err(StoreError::Missing { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        let waiting = self.checkpoints.iter_mut();
        for (step, checkpoint) in waiting.filter(|(_, it)| it.agrees.is_none()) {
            if let Some(root) = self.state.root(*step) {
                let (head, root) = (&checkpoint.manifest.ledger_head, root.root());
                checkpoint.agrees = Some(head.as_ref() == Some(&root));
            }
        }
        Ok(())
    }

    async fn read_reports(&mut self) -> Result<(), StoreError> {
        self.reports = self.job.report_steps().await?;
        let Some(&newest) = self.reports.last() else {
            self.report = None;
            return Ok(());
        };
        if self.report.as_ref().is_none_or(|(step, _)| *step != newest) {
            match self.job.report(newest, "json").await {
                // One of a later version is not shown here; it still opens.
                Ok(json) => {
                    let report = String::from_utf8_lossy(&json);
                    let report = Report::from_json(&report).ok();
                    self.report = report.map(|report| (newest, Box::new(report)));
                }
                // It is being written.
                Err(StoreError::Missing { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Entries of the log that were read.
    pub fn entries(&self) -> u64 {
        self.position
    }

    /// Who computed which steps that count.
    pub fn stretches(&self) -> Vec<Stretch> {
        let mut end = self.state.steps.len() as u64;
        let mut stretches = Vec::new();
        // What any later one computed again does not count.
        for membership in self.memberships.iter().rev() {
            if membership.start < end {
                stretches.push(Stretch {
                    first: membership.start + 1,
                    last: end,
                    members: membership.members.clone(),
                });
                end = membership.start;
            }
        }
        stretches.reverse();
        stretches
    }
}

#[cfg(test)]
mod tests {
    use perennial_store::Store;

    use super::*;
    use crate::JobEvent;
    use crate::audit::tests::job;

    /// A job that was killed, went back to a checkpoint and finished, as far as the first entries of its log.
    async fn stored(entries: usize) -> (Record, Vec<LogRecord>) {
        let all = job::stored();
        let store = Store::in_memory();
        let kept = store.job(&all.spec.name).unwrap();
        kept.create_spec(&all.spec).await.unwrap();
        let log: Vec<LogRecord> = all.log.into_iter().map(|it| it.content.unwrap()).collect();
        for (position, entry) in (0..).zip(&log[..entries]) {
            kept.append_log(position, entry).await.unwrap();
        }
        for step in [3, 6] {
            for part in &job::manifest(step, 1).parts {
                let path = format!("{}/{}", kept.name(), part.path);
                store.create(&path, vec![0]).await.unwrap();
            }
            kept.commit(&job::manifest(step, step as u32 / 3))
                .await
                .unwrap();
        }
        let json = job::report().to_json_pretty();
        kept.create_report(6, "json", json).await.unwrap();
        (Record::new(kept, all.spec), log)
    }

    /// As if time had passed.
    async fn look_again(record: &mut Record) {
        (record.looked, record.listed) = (None, None);
        record.refresh().await.unwrap();
    }

    #[tokio::test]
    async fn a_job_that_is_over_is_told_from_its_store() {
        let (mut record, log) = stored(14).await;
        assert_eq!(log.len(), 14);
        record.refresh().await.unwrap();
        assert_eq!(record.broken, None);
        assert_eq!(record.state.ended.as_deref(), Some("finished"));
        assert_eq!(record.root.root(), job::root(6));
        assert_eq!(record.reports, [6]);
        assert_eq!(record.report.as_ref().unwrap().1.global_step, 6);
        let agree: Vec<_> = record.checkpoints.values().map(|it| it.agrees).collect();
        assert_eq!(agree, [Some(true), Some(true)]);
    }

    #[tokio::test]
    async fn steps_that_were_computed_again_belong_to_who_computed_them_last() {
        let (mut record, _) = stored(14).await;
        record.refresh().await.unwrap();
        let stretch = |first, last, members: &[(&str, u32)]| Stretch {
            first,
            last,
            members: members
                .iter()
                .map(|(name, slots)| (name.to_string(), *slots))
                .collect(),
        };
        assert_eq!(
            record.stretches(),
            [
                stretch(1, 3, &[("w1", 2), ("w2", 1)]),
                stretch(4, 6, &[("w3", 1), ("w4", 2)]),
            ]
        );
    }

    #[tokio::test]
    async fn what_is_written_while_somebody_looks_is_read_on() {
        let (mut record, log) = stored(8).await;
        record.refresh().await.unwrap();
        assert_eq!(record.root.count(), 5);
        assert_eq!(record.checkpoints[&3].agrees, Some(true));
        assert_eq!(record.checkpoints[&6].agrees, None, "the log is not so far");
        let told = Told::now(JobEvent::Scaled { wanted: 2 });
        let mut line = serde_json::to_vec(&told).unwrap();
        line.extend(b"\nno event\n");
        record.job.create_events(1, 0, line).await.unwrap();
        for (position, entry) in (0..).zip(&log).skip(8) {
            record.job.append_log(position, entry).await.unwrap();
        }
        look_again(&mut record).await;
        assert_eq!(record.root.root(), job::root(6));
        assert_eq!(record.checkpoints[&6].agrees, Some(true));
        assert_eq!(record.events, [told]);
    }

    #[tokio::test]
    async fn a_log_that_cannot_be_is_told_and_not_shown_as_true() {
        let (mut record, log) = stored(3).await;
        record.job.append_log(3, &log[2]).await.unwrap();
        record.refresh().await.unwrap();
        let why = record.broken.as_deref().unwrap();
        assert!(
            why.contains("`tiny` breaks a rule: invariant EX-2"),
            "{why}"
        );
        assert_eq!(record.root.count(), 2);
        look_again(&mut record).await;
        assert_eq!(record.root.count(), 2);
    }
}
