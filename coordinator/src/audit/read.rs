//! Bringing what a job keeps, readable or not.

use perennial_report::Report;
use perennial_store::{Job, StoreError};

use super::{Object, Stored};
use crate::log::LogRecord;

/// Why there is nothing to audit.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("job `{0}` was never started: it has no log and no checkpoint; start it first")]
    NotStarted(String),
    #[error(
        "job `{0}` has no ledger: it was trained by a version that did not keep one, so that only its files can be checked, by `perennial checkpoint verify {0}`"
    )]
    NoLedger(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Reads spec, log, manifests and reports of a job. It may be running: what it writes meanwhile is left
/// out, what retention removes meanwhile too.
pub async fn read(job: &Job) -> Result<Stored, AuditError> {
    let name = || job.name().to_string();
    let spec = job
        .spec()
        .await?
        .ok_or_else(|| AuditError::NotStarted(name()))?;
    // Checkpoints and reports follow on the log: read before it, they tell of nothing that it lacks.
    let mut manifests = Vec::new();
    for step in job.checkpoint_steps().await? {
        let content = match job.load_manifest(step).await {
            Err(StoreError::Missing { .. }) => continue,
            result => usable(result)?,
        };
        manifests.push(Object {
            path: job.manifest_path(step),
            number: step,
            content,
        });
    }
    let mut reports = Vec::new();
    for step in job.report_steps().await? {
        let content = match usable(job.report(step, "json").await)? {
            Ok(bytes) => report(&bytes),
            Err(why) => Err(why),
        };
        reports.push(Object {
            path: job.report_path(step, "json"),
            number: step,
            content,
        });
    }
    let log = log(job).await?;
    if log.is_empty() && manifests.is_empty() {
        return Err(AuditError::NotStarted(name()));
    }
    if log.is_empty() || is_before_ledgers(job).await? {
        return Err(AuditError::NoLedger(name()));
    }
    Ok(Stored {
        spec,
        log,
        manifests,
        reports,
    })
}

/// Every position up to the last one, there or not.
async fn log(job: &Job) -> Result<Vec<Object<LogRecord>>, StoreError> {
    let scanned = job.scan_log::<LogRecord>().await?;
    let last = scanned.len().saturating_sub(1);
    let mut log = Vec::new();
    for (position, entry) in (0..).zip(scanned) {
        let content = match usable(entry)? {
            Ok(Some(record)) => Ok(record),
            Ok(None) => Err(format!(
                "it is missing, though the log goes on to position {last}"
            )),
            Err(why) => Err(why),
        };
        log.push(Object {
            path: job.log_path(position),
            number: position,
            content,
        });
    }
    Ok(log)
}

/// Whether the first entry is one of the versions that had no terms.
async fn is_before_ledgers(job: &Job) -> Result<bool, StoreError> {
    match job.log_entry::<serde_json::Value>(0).await {
        Ok(entry) => {
            Ok(entry.is_some_and(|entry| entry.is_object() && entry.get("term").is_none()))
        }
        // Not even JSON: the audit names it.
        Err(StoreError::Malformed { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

fn report(bytes: &[u8]) -> Result<Report, String> {
    let json = std::str::from_utf8(bytes).map_err(|error| format!("it is not text: {error}"))?;
    Report::from_json(json).map_err(|error| format!("it cannot be used: {error}"))
}

/// Tells an object that is at fault from a store that is.
fn usable<T>(result: Result<T, StoreError>) -> Result<Result<T, String>, StoreError> {
    match result {
        Ok(content) => Ok(Ok(content)),
        Err(StoreError::Malformed { reason, .. }) => {
            Ok(Err(format!("it cannot be used: {reason}")))
        }
        Err(StoreError::Missing { .. }) => Ok(Err("it is missing".to_string())),
        Err(error) => Err(error),
    }
}
