//! The coordinator in a process of its own, so that its memory and its time are its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitCode, Stdio};

use perennial_coordinator::{Access, ServeConfig};
use perennial_plan::Spec;
use perennial_store::Store;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};

/// The first argument of the coordinator's process; the folder and the number of members follow.
pub const SERVE: &str = "--serve";

pub struct Coordinator {
    pub address: String,
    /// Killed when this is dropped.
    child: Child,
}

// === impl Coordinator ===

impl Coordinator {
    pub async fn start(folder: &Path, members: usize) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let mut child = Command::new(program)
            .arg(SERVE)
            .arg(folder)
            .arg(members.to_string())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| format!("the coordinator cannot be started: {error}"))?;
        let stdout = child.stdout.take().ok_or("it has no output")?;
        let mut lines = BufReader::new(stdout).lines();
        let first = lines.next_line().await.map_err(|error| error.to_string())?;
        let address = first.ok_or("the coordinator ended before it listened")?;
        Ok(Self { address, child })
    }

    fn read(&self, file: &str) -> Result<String, String> {
        let process = self.child.id().ok_or("the coordinator has ended")?;
        let path = format!("/proc/{process}/{file}");
        std::fs::read_to_string(&path).map_err(|error| format!("`{path}` cannot be read: {error}"))
    }

    /// The most memory that it ever held, in bytes.
    pub fn peak_memory(&self) -> Result<u64, String> {
        let status = self.read("status")?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kilobytes =
            line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
        Ok(kilobytes.ok_or("the kernel does not tell the coordinator's memory")? * 1024)
    }

    /// Seconds of processor time so far.
    pub fn cpu(&self) -> Result<f64, String> {
        let stat = self.read("stat")?;
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        // utime and stime, in hundredths of a second.
        let ticks = [11, 12].map(|field| {
            fields
                .get(field)
                .and_then(|field| field.parse::<f64>().ok())
        });
        match ticks {
            [Some(user), Some(system)] => Ok((user + system) / 100.0),
            _ => Err("the kernel does not tell the coordinator's time".into()),
        }
    }
}

/// The coordinator's process: prints where it listens, and serves until it is killed.
pub fn serve(mut arguments: impl Iterator<Item = String>) -> ExitCode {
    let (Some(folder), Some(members)) = (arguments.next(), arguments.next()) else {
        return ExitCode::from(2);
    };
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    match runtime.block_on(rule(&folder, members.parse().unwrap_or(1))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("the coordinator: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn rule(folder: &str, members: u32) -> Result<(), String> {
    let mut spec = Spec {
        name: "thousand".into(),
        ..Spec::default()
    };
    spec.train.slots = members;
    spec.train.batch_size = crate::members::BATCH;
    let config = ServeConfig {
        listen: "127.0.0.1:0".into(),
        advertise: None,
        access: Access::default(),
        spec,
        workers: members,
        store: Store::open(folder).map_err(|error| error.to_string())?,
        store_url: folder.into(),
        resume: false,
        standby: false,
        resume_command: "nothing".into(),
        command: None,
    };
    let (bound, address) = oneshot::channel::<SocketAddr>();
    let (events, mut told) = mpsc::unbounded_channel();
    // Nobody asks for a stop; the sender has to live.
    let (_stop, stopping) = watch::channel(false);
    tokio::spawn(async move {
        if let Ok(address) = address.await {
            println!("{address}");
        }
        // As the program does: every event becomes a line.
        while let Some(event) = told.recv().await {
            let line = serde_json::to_string(&event).unwrap_or_default();
            if line.contains("\"warning\"")
                || line.contains("_lost\"")
                || line.contains("\"error\"")
            {
                eprintln!("{line}");
            }
        }
    });
    let outcome = perennial_coordinator::serve(config, bound, events, stopping).await;
    let outcome = outcome.map_err(|error| error.to_string())?;
    Err(format!("the job ended: {outcome:?}"))
}
