//! Names that a shell completes: jobs and their workers, as the store has them. Whatever cannot be read is not offered.

use std::collections::BTreeSet;
use std::time::Duration;

use clap_complete::CompletionCandidate;
use perennial_coordinator::log::{LogEntry, LogRecord};
use perennial_store::{Job, Store};

use crate::job::{DEFAULT_STORE, block_on, open_store};

/// A shell that waits for longer is of no use to whoever types.
const PATIENCE: Duration = Duration::from_secs(2);

/// The jobs of the store, and job files.
pub fn jobs() -> Vec<CompletionCandidate> {
    let files = std::fs::read_dir(".").into_iter().flatten().flatten();
    let files = files.filter_map(|file| file.file_name().into_string().ok());
    let mut names: BTreeSet<String> = files.filter(|name| name.ends_with(".toml")).collect();
    names.extend(from_store(async |store| Ok(store.jobs().await?)));
    names.into_iter().map(CompletionCandidate::new).collect()
}

/// The members of the newest generation of each job that the line names, or of all that are not over.
pub fn workers() -> Vec<CompletionCandidate> {
    let names = from_store(async |store| {
        let all = store.jobs().await?;
        let words: BTreeSet<String> = words().into_iter().collect();
        let named: Vec<String> = all
            .iter()
            .filter(|job| words.contains(*job))
            .cloned()
            .collect();
        let is_any = named.is_empty();
        let mut members = Vec::new();
        for job in if is_any { all } else { named } {
            members.extend(members_of(&store.job(&job)?, is_any).await?);
        }
        Ok(members)
    });
    let names: BTreeSet<String> = names.into_iter().collect();
    names.into_iter().map(CompletionCandidate::new).collect()
}

async fn members_of(job: &Job, unless_over: bool) -> anyhow::Result<Vec<String>> {
    let log: Vec<LogRecord> = job.read_log(0).await?;
    let over = matches!(log.last().map(|it| &it.entry), Some(LogEntry::Ended { .. }));
    let members = log.into_iter().rev().find_map(|record| match record.entry {
        LogEntry::Generation { generation, .. } => Some(generation.members),
        _ => None,
    });
    let members = members
        .filter(|_| !(over && unless_over))
        .unwrap_or_default();
    Ok(members.into_iter().map(|member| member.worker).collect())
}

/// What `ask` finds in the store that the line names.
fn from_store(ask: impl AsyncFnOnce(&Store) -> anyhow::Result<Vec<String>>) -> Vec<String> {
    let asked = || {
        let store = open_store(&store_url())?;
        block_on(async { tokio::time::timeout(PATIENCE, ask(&store)).await? })
    };
    asked().unwrap_or_default()
}

fn store_url() -> String {
    let words = words();
    let after = |(place, word): (usize, &String)| match word.strip_prefix("--store") {
        Some("") => words.get(place + 1).cloned(),
        Some(rest) => rest.strip_prefix('=').map(String::from),
        None => None,
    };
    let given = words.iter().enumerate().find_map(after);
    given.unwrap_or_else(|| DEFAULT_STORE.to_string())
}

/// The words of the line, after the program's name.
fn words() -> Vec<String> {
    let line = std::env::args().skip_while(|word| word != "--");
    line.skip(2).collect()
}
