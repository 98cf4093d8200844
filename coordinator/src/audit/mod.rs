//! What storage alone proves of a job: that each step was applied once and in order, that members agreed
//! on every replica, and that checkpoints and reports are of these very steps.
//!
//! [`read`] brings what is there; everything else is a pure function of it. Unlike
//! [`Replayed`](crate::replay::Replayed), which stops at the first thing that cannot be, an audit goes on
//! and names them all. What only a network can tell (the hash of a replica in a checkpoint's parts) is
//! left to the caller, who asks [`Audit::replica_hash`].
//!
//! Clock times are not audited. Numbers outside the ledger have been through JSON, whose reader may
//! change their last bit each time: they are compared to nine digits, the ledger to the bit.

mod account;
mod checkpoint;
mod coverage;
mod log;
mod read;
mod report;
mod scale;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use perennial_plan::Spec;
use perennial_report::Report;
use perennial_store::Manifest;
use serde::Serialize;

use crate::log::{DataFacts, LogRecord};
pub use account::Account;
use log::Walk;
pub use read::{AuditError, read};

/// Something in the store that is not what it should be. Epochs and steps are counted as in the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// The object, or the folder of those of which one is at fault.
    pub object: String,
    /// What is there, and what should be.
    pub message: String,
}

/// An object of the store as it was read.
#[derive(Debug, Clone)]
pub struct Object<T> {
    pub path: String,
    /// Its position in the log, or its global step.
    pub number: u64,
    /// Or why it cannot be used.
    pub content: Result<T, String>,
}

/// What a job keeps, without the checkpoints' parts.
#[derive(Debug, Clone)]
pub struct Stored {
    pub spec: Spec,
    /// All positions from 0 on.
    pub log: Vec<Object<LogRecord>>,
    /// By ascending step.
    pub manifests: Vec<Object<Manifest>>,
    /// By ascending step.
    pub reports: Vec<Object<Report>>,
}

/// What was found, and what the job did according to its log.
#[derive(Debug)]
pub struct Audit {
    pub findings: Vec<Finding>,
    pub account: Account,
    data: Option<DataFacts>,
    replica_hashes: BTreeMap<u64, u64>,
}

// === impl Audit ===

impl Audit {
    /// Compares everything that was read with the plan and with each other.
    pub fn of(stored: &Stored) -> Self {
        let walk = Walk::over(&stored.spec, &stored.log);
        let Walk {
            mut findings,
            account,
            known,
            live,
            generations,
            next,
            ..
        } = walk;
        let log = stored.log.first().map_or("log", |first| {
            first
                .path
                .rsplit_once('/')
                .map_or("log", |(folder, _)| folder)
        });
        findings.extend(coverage::check(
            &stored.spec,
            log,
            next,
            &known,
            &live,
            &generations,
        ));
        findings.extend(scale::check(&stored.spec, log, &known));
        let stands = live.len() as u64;
        let manifests = stored.manifests.iter().map(|manifest| manifest.number);
        let reports = stored.reports.iter().map(|report| report.number);
        let counts: BTreeSet<u64> = manifests.chain(reports).chain([stands]).collect();
        let roots = known.roots(&counts);
        findings.extend(checkpoint::check(stored, &known, &generations, &roots));
        findings.extend(report::check(stored, &known, &generations, &roots));
        let replica_hashes = known
            .steps
            .iter()
            .map(|(step, seen)| (step + 1, seen.record.replica_hash))
            .collect();
        Self {
            findings,
            account: Account {
                ledger_root: roots.get(&stands).cloned(),
                ..account
            },
            data: known.data,
            replica_hashes,
        }
    }

    /// The hash that the ledger has of the replica after so many steps.
    pub fn replica_hash(&self, global_step: u64) -> Option<u64> {
        self.replica_hashes.get(&global_step).copied()
    }

    /// What the log says of the data.
    pub fn data(&self) -> Option<&DataFacts> {
        self.data.as_ref()
    }
}

// === impl Finding ===

impl Finding {
    pub fn new(object: &str, message: impl Into<String>) -> Self {
        Self {
            object: object.to_string(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.message)
    }
}
