//! The program as a user runs it, and data to run it on.

#![allow(dead_code, reason = "each test file uses a part of it")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// The program.
pub fn perennial() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perennial"));
    command.stdin(Stdio::null());
    command
}

/// What a run printed and how it ended.
#[derive(Debug)]
pub struct Run {
    pub status: Option<i32>,
    pub events: Vec<Value>,
    pub stderr: String,
}

// === impl Run ===

impl Run {
    /// The events of this name.
    pub fn events(&self, name: &str) -> Vec<&Value> {
        self.events
            .iter()
            .filter(|event| event["event"] == name)
            .collect()
    }

    /// Raw and averaged hash of a run that finished.
    pub fn hashes(&self) -> (String, String) {
        let finished = self.events("finished");
        assert_eq!(finished.len(), 1, "the run did not finish: {self:?}");
        let hash = |key: &str| {
            finished[0][key]
                .as_str()
                .expect("a finished run has hashes")
                .to_string()
        };
        (hash("weights_sha256"), hash("ema_sha256"))
    }
}

/// Runs to the end; stdout is read as one JSON object a line.
pub fn run(command: &mut Command) -> Run {
    let output = command.output().expect("the program starts");
    let stdout = String::from_utf8(output.stdout).expect("JSON is text");
    Run {
        status: output.status.code(),
        events: stdout
            .lines()
            .map(|line| serde_json::from_str(line).expect("a line is JSON"))
            .collect(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Processes that do not outlive the test.
pub struct Processes(pub Vec<Child>);

impl Drop for Processes {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// An address of this machine at which nobody listens.
pub fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("it is bound").to_string()
}

/// A run under way. It does not outlive the test.
pub struct Running {
    pub child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
    pub events: Vec<Value>,
}

// === impl Running ===

impl Running {
    pub fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let stdout = child.stdout.take().expect("stdout is piped");
        Self {
            child,
            lines: BufReader::new(stdout).lines(),
            events: Vec::new(),
        }
    }

    /// Reads events until one fits.
    pub fn wait_for(&mut self, fits: impl Fn(&Value) -> bool) -> Value {
        for line in self.lines.by_ref() {
            let event: Value =
                serde_json::from_str(&line.expect("stdout can be read")).expect("a line is JSON");
            self.events.push(event.clone());
            if fits(&event) {
                return event;
            }
        }
        let mut stderr = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            let _ = std::io::Read::read_to_string(&mut pipe, &mut stderr);
        }
        panic!(
            "the run ended before the event came: {:?}\n{stderr}",
            self.events.last()
        );
    }

    /// Process ids of the workers that the run started.
    pub fn workers(&self) -> Vec<u32> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").expect("a /proc").flatten() {
            let Some(id) = entry
                .file_name()
                .to_str()
                .and_then(|name| name.parse::<u32>().ok())
            else {
                continue;
            };
            let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent = stat
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.split(' ').nth(1)?.parse::<u32>().ok());
            if parent == Some(self.child.id()) {
                found.push(id);
            }
        }
        found.sort_unstable();
        found
    }

    /// Ends it at once, if it has not ended.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Reads everything that follows and waits for the end.
    pub fn finish(mut self) -> Run {
        for line in self.lines.by_ref() {
            let line = line.expect("stdout can be read");
            self.events
                .push(serde_json::from_str(&line).expect("a line is JSON"));
        }
        let mut stderr = String::new();
        if let Some(mut pipe) = self.child.stderr.take() {
            let _ = std::io::Read::read_to_string(&mut pipe, &mut stderr);
        }
        let status = self
            .child
            .wait()
            .expect("the program can be waited for")
            .code();
        Run {
            status,
            events: std::mem::take(&mut self.events),
            stderr,
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Sends a signal to a process.
pub fn signal(id: u32, name: &str) {
    let status = Command::new("kill")
        .args([format!("-{name}"), id.to_string()])
        .status()
        .expect("kill starts");
    assert!(status.success());
}

/// Whether the process is there (and not a zombie).
pub fn is_alive(id: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit(") ")
        .next()
        .is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}

/// Waits until `holds`, at most `patience`.
pub fn wait_until(patience: Duration, what: &str, holds: impl Fn() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(
            start.elapsed() < patience,
            "{what} did not come within {patience:?}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Pictures to train on: real seedlings where they are at hand, made-up ones otherwise.
pub fn pictures(folder: &Path) -> PathBuf {
    let real =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/seedlings_mini_64.tgz");
    if real.is_file() {
        let status = Command::new("tar")
            .arg("xzf")
            .arg(real)
            .arg("-C")
            .arg(folder)
            .status()
            .expect("tar starts");
        assert!(status.success(), "the archive can be unpacked");
        return folder.join("seedlings_mini");
    }
    let dir = folder.join("synthetic");
    let made = perennial()
        .args(["data", "synth"])
        .arg(&dir)
        .args(["--classes", "12", "--per-class", "20", "--size", "64"])
        .status()
        .expect("the program starts");
    assert!(made.success());
    dir
}

/// A small job with everything on that could make a difference.
pub const JOB: &str = r#"
name = "exact"
seed = 7
[data]
image_size = 32
mean = [0.485, 0.456, 0.406]
std = [0.229, 0.224, 0.225]
[model]
drop_path = 0.1
[train]
epochs = 2
batch_size = 22
slots = 5
clip_grad_norm = 1.0
[schedule]
warmup_epochs = 1
[augment]
horizontal_flip = 0.5
vertical_flip = 0.5
cutout = 0.5
crop_scale = [0.5, 1.0]
[mix]
mixup_alpha = 0.8
cutmix_alpha = 1.0
prob = 0.9
[ema]
decay = 0.9
[checkpoint]
every_steps = 3
"#;

/// `perennial --json train` of [`JOB`].
pub fn train(job: &Path, data: &Path, store: &str, workers: u32, threads: u32) -> Command {
    let mut command = perennial();
    command
        .args(["--json", "train"])
        .arg(job)
        .arg("--data")
        .arg(data)
        .args(["--store", store]);
    command.args([
        "--workers",
        &workers.to_string(),
        "--threads",
        &threads.to_string(),
    ]);
    command
}

/// A folder with pictures and a job file, and room for stores.
pub struct Bench {
    pub folder: TempDir,
    pub data: PathBuf,
    pub job: PathBuf,
}

// === impl Bench ===

impl Bench {
    /// With [`pictures`], for the job file's text.
    pub fn new(job: &str) -> Self {
        Self::with(pictures, job)
    }

    /// With the pictures that `make` puts into the folder that it is given.
    pub fn with(make: impl FnOnce(&Path) -> PathBuf, text: &str) -> Self {
        let folder = tempfile::tempdir().expect("there is room");
        let data = make(folder.path());
        let job = folder.path().join("job.toml");
        std::fs::write(&job, text).expect("the job file can be written");
        Self { folder, data, job }
    }

    /// Where the store of this name is.
    pub fn store(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// [`train`] of the job.
    pub fn train(&self, store: &str, workers: u32, threads: u32) -> Command {
        train(&self.job, &self.data, store, workers, threads)
    }
}

/// Environment for an S3 server at `endpoint`.
pub fn s3_variables(endpoint: &str, secret: &str) -> BTreeMap<&'static str, String> {
    BTreeMap::from([
        ("AWS_ENDPOINT_URL", endpoint.to_string()),
        ("AWS_ACCESS_KEY_ID", "key".to_string()),
        ("AWS_SECRET_ACCESS_KEY", secret.to_string()),
        ("AWS_REGION", "us-east-1".to_string()),
    ])
}

/// A server of S3 in this process, with a bucket called `bucket`; the key is `key`.
pub fn serve_s3(folder: &Path, secret: &str) -> (String, tokio::runtime::Runtime) {
    std::fs::create_dir_all(folder.join("bucket")).unwrap();
    let files = s3s_fs::FileSystem::new(folder).unwrap();
    let mut service = s3s::service::S3ServiceBuilder::new(files);
    service.set_auth(s3s::auth::SimpleAuth::from_single("key", secret));
    let service = service.build();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let listener = runtime
        .block_on(tokio::net::TcpListener::bind("127.0.0.1:0"))
        .unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    runtime.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let service = service.clone();
            tokio::spawn(async move {
                let server = hyper_util::server::conn::auto::Builder::new(
                    hyper_util::rt::TokioExecutor::new(),
                );
                let _ = server
                    .serve_connection(hyper_util::rt::TokioIo::new(socket), service)
                    .await;
            });
        }
    });
    (endpoint, runtime)
}
