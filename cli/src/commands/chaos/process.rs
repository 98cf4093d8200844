//! Processes of this program that do not outlive their handle, whatever state they are in.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, ensure};
use perennial_coordinator::JobEvent;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::mpsc::UnboundedSender;
use tokio::time::Instant;

use crate::security::keep_local;

/// Tells the processes of a run apart, however often one of them is started again.
pub type Uid = u32;

/// Lines of stderr that are kept of each process.
const KEPT_LINES: usize = 20;

/// What a coordinator told, and when it was heard.
#[derive(Debug)]
pub struct Told {
    pub at: Instant,
    pub from: Uid,
    pub event: JobEvent,
}

/// A process that was started.
#[derive(Debug)]
pub struct Process {
    pub uid: Uid,
    child: Child,
    last_lines: Arc<Mutex<VecDeque<String>>>,
}

// === impl Process ===

impl Process {
    /// Starts this program with `arguments`, in a process group of its own: ctrl-c on the terminal does not
    /// reach it. What it prints is read as events and sent to `events`.
    pub fn start(
        uid: Uid,
        arguments: &[String],
        variables: &[(String, String)],
        log: Option<&Path>,
        events: UnboundedSender<Told>,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find the program's own file")?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .envs(variables.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        keep_local(command.as_std_mut());
        #[cfg(unix)]
        command.process_group(0);
        let mut child = command
            .spawn()
            .with_context(|| format!("cannot start `perennial {}`", arguments.join(" ")))?;
        let log = log.map(|log| log.join(format!("{uid:03}-{}.log", kind(arguments))));
        let log = Log::create(log.as_deref())?;
        let last_lines = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stderr) = child.stderr.take() {
            let (kept, log) = (last_lines.clone(), log.clone());
            tokio::spawn(read_lines(stderr, move |line| {
                log.write(&line);
                let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                kept.push_back(line);
                if kept.len() > KEPT_LINES {
                    kept.pop_front();
                }
            }));
        }
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(read_lines(stdout, move |line| {
                log.write(&line);
                if let Ok(event) = serde_json::from_str(&line) {
                    let at = Instant::now();
                    let from = uid;
                    let _ = events.send(Told { at, from, event });
                }
            }));
        }
        Ok(Self {
            uid,
            child,
            last_lines,
        })
    }

    /// The system's number of it, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// How it ended, if it has.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// SIGKILL; whether this is what ended it.
    pub async fn kill(&mut self) -> bool {
        if self.ended().is_some() || self.child.start_kill().is_err() {
            return false;
        }
        self.child
            .wait()
            .await
            .is_ok_and(|status| status.code().is_none())
    }

    /// SIGSTOP or SIGCONT.
    pub async fn signal(&self, name: &str) -> anyhow::Result<()> {
        let id = self.id().context("the process has ended")?;
        let status = Command::new("sh")
            .args(["-c", &format!("kill -{name} {id}")])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .await
            .context("cannot run `sh` to send a signal")?;
        ensure!(
            status.success(),
            "process {id} did not take the signal {name}"
        );
        Ok(())
    }

    /// The last line of its stderr, which says why it ended.
    pub fn last_words(&self) -> String {
        let lines = self
            .last_lines
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let last = lines.back().map(String::as_str).unwrap_or_default();
        last.trim_start_matches("error: ").to_string()
    }
}

/// A file that gets all lines of a process, each with the time at which it came; or none.
#[derive(Debug, Clone)]
struct Log(Option<Arc<File>>);

// === impl Log ===

impl Log {
    fn create(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else {
            return Ok(Self(None));
        };
        let file =
            File::create(path).with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(Self(Some(Arc::new(file))))
    }

    /// A log that cannot be written does not end the run.
    fn write(&self, line: &str) {
        if let Some(mut file) = self.0.as_deref() {
            let since = SystemTime::now().duration_since(UNIX_EPOCH);
            let seconds = since.unwrap_or_default().as_secs_f64();
            let _ = file.write_all(format!("{seconds:.3} {line}\n").as_bytes());
        }
    }
}

/// `coordinator` or `worker`, for the name of a file.
fn kind(arguments: &[String]) -> &str {
    let words = arguments.iter().map(String::as_str);
    let mut kinds = words.filter(|word| !word.starts_with('-'));
    kinds.next().unwrap_or("process")
}

async fn read_lines(from: impl AsyncRead + Unpin, mut take: impl FnMut(String)) {
    let mut lines = BufReader::new(from).split(b'\n');
    while let Ok(Some(line)) = lines.next_segment().await {
        take(String::from_utf8_lossy(&line).trim_end().to_string());
    }
}
