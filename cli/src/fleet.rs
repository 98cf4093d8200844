//! Worker processes on this machine. None outlives the fleet, and each ends by itself when the
//! coordinator is gone.

use std::collections::VecDeque;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::log;
use crate::run::LocalWorkers;
use crate::security::keep_local;

/// Seconds for which a worker goes on when this process is gone.
const PATIENCE: &str = "10";
/// Lines of stderr that are kept of each worker.
const KEPT_LINES: usize = 20;
/// How long a worker's last words may take after it ended.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Worker processes that were started.
#[derive(Debug)]
pub struct Fleet {
    /// Of the coordinator.
    url: String,
    kind: LocalWorkers,
    /// Each ends with its process.
    workers: JoinSet<Exit>,
    started: usize,
}

/// A worker process that ended.
#[derive(Debug)]
pub struct Exit {
    /// From 0, in the order in which they were started.
    pub number: usize,
    pub status: ExitStatus,
    /// The last lines that it wrote to stderr.
    pub stderr: Vec<String>,
}

// === impl Fleet ===

impl Fleet {
    /// No worker yet. Those to come are of this kind and serve the coordinator at `url`.
    pub fn new(url: String, kind: LocalWorkers) -> Self {
        Self {
            url,
            kind,
            workers: JoinSet::new(),
            started: 0,
        }
    }

    /// Starts workers until `count` are running, in process groups of their own: ctrl-c on the terminal
    /// reaches this process alone.
    pub fn fill_up(&mut self, count: u32) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("cannot find the program's own file")?;
        while self.workers.len() < count as usize {
            let number = self.started;
            let mut command = Command::new(&program);
            command
                .args(["worker", "--coordinator", &self.url])
                .args(["--patience", PATIENCE, "--threads"])
                .arg(self.kind.threads.to_string())
                .args(["--device", &self.kind.device.to_string()])
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .kill_on_drop(true);
            keep_local(command.as_std_mut());
            #[cfg(unix)]
            command.process_group(0);
            let child = command
                .spawn()
                .with_context(|| format!("cannot start worker process {number}"))?;
            self.workers.spawn(watch(number, child));
            self.started += 1;
        }
        Ok(())
    }

    /// Whether no worker is running.
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// The next worker that ends; waits forever when none is left.
    pub async fn next_exit(&mut self) -> Exit {
        loop {
            match self.workers.join_next().await {
                Some(Ok(exit)) => return exit,
                Some(Err(error)) => tracing::warn!(%error, "a worker process was lost sight of"),
                None => std::future::pending().await,
            }
        }
    }

    /// Waits for all workers to end by themselves; after `patience` those that are left are killed.
    pub async fn wind_up(&mut self, patience: Duration) -> Vec<Exit> {
        let mut exits = Vec::new();
        let _ = timeout(patience, async {
            while let Some(ended) = self.workers.join_next().await {
                exits.extend(ended.ok());
            }
        })
        .await;
        self.workers.shutdown().await;
        exits
    }
}

// === impl Exit ===

impl Exit {
    /// Whether it ended in another way than a worker does that says why it ends.
    pub fn is_crash(&self) -> bool {
        !matches!(self.status.code(), Some(0 | 1))
    }

    /// Its last lines, each with its number.
    pub fn last_words(&self) -> String {
        let lines = self.stderr.iter();
        lines
            .map(|line| format!("worker process {}: {line}\n", self.number))
            .collect()
    }
}

async fn watch(number: usize, mut child: Child) -> Exit {
    let lines = Arc::new(Mutex::new(VecDeque::new()));
    let stderr = child.stderr.take();
    let mut reading = JoinSet::new();
    if let Some(stderr) = stderr {
        reading.spawn(keep_last_lines(number, stderr, lines.clone()));
    }
    let status = child.wait().await.unwrap_or_default();
    let _ = timeout(LAST_WORDS, reading.join_next()).await;
    let stderr = lines.lock().unwrap_or_else(PoisonError::into_inner);
    Exit {
        number,
        status,
        stderr: stderr.iter().cloned().collect(),
    }
}

async fn keep_last_lines(
    number: usize,
    stderr: impl AsyncRead + Unpin,
    kept: Arc<Mutex<VecDeque<String>>>,
) {
    let mut lines = BufReader::new(stderr).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        let line = String::from_utf8_lossy(&line).trim_end().to_string();
        // What it logs as JSON says itself whose it is.
        if line.starts_with('{') && log::is_json().unwrap_or(false) {
            eprintln!("{line}");
        } else {
            tracing::info!("worker process {number}: {line}");
        }
        let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.push_back(line);
        if kept.len() > KEPT_LINES {
            kept.pop_front();
        }
    }
}
