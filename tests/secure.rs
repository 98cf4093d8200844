//! A job whose processes speak under TLS: it trains the same weights, and what is secret stays so.

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use support::{
    Bench, JOB, Processes, free_address, perennial, run, s3_variables, serve_s3, wait_until,
};

const PATIENCE: Duration = Duration::from_secs(300);
/// Of the store: as a key looks, and found wherever it goes.
const STORE_SECRET: &str = "wJalrXUtnFEMIMARKEDbPxRfiCYEXAMPLEKEY";

/// A folder with an authority, its certificates and a token, and what the processes wrote.
struct Installation<'a> {
    bench: &'a Bench,
    address: String,
    endpoint: String,
}

// === impl Installation ===

impl<'a> Installation<'a> {
    fn new(bench: &'a Bench, endpoint: String) -> Self {
        let installation = Self {
            bench,
            address: free_address(),
            endpoint,
        };
        installation.certs(&["init"], &[]);
        installation.certs(&["issue"], &["coordinator", "worker", "operator"]);
        installation.certs(&["token"], &["ann", "--role", "operate"]);
        fs::create_dir(installation.written()).unwrap();
        installation
    }

    fn certs(&self, before: &[&str], after: &[&str]) {
        let mut command = perennial();
        command
            .arg("certs")
            .args(before)
            .arg(self.folder())
            .args(after);
        let made = command.output().unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    fn folder(&self) -> PathBuf {
        self.bench.folder.path().join("certs")
    }

    /// Where all output goes.
    fn written(&self) -> PathBuf {
        self.bench.folder.path().join("written")
    }

    /// A command that tells as much as it can.
    fn command(&self, words: &[&str]) -> Command {
        let mut command = perennial();
        command
            .args(words)
            .env("PERENNIAL_LOG", "trace,perennial_kernels=warn")
            .env("PERENNIAL_TLS_CA", self.folder().join("ca.pem"))
            .envs(s3_variables(&self.endpoint, STORE_SECRET));
        command
    }

    fn with_certificate(&self, name: &str, words: &[&str]) -> Command {
        let mut command = self.command(words);
        let file = |end: &str| self.folder().join(format!("{name}.{end}"));
        command.arg("--tls-cert").arg(file("pem"));
        command.arg("--tls-key").arg(file("key"));
        command
    }

    fn start(&self, name: &str, command: &mut Command) -> Child {
        let file = |end: &str| File::create(self.written().join(format!("{name}.{end}"))).unwrap();
        command.stdout(file("out")).stderr(file("err"));
        command.stdin(Stdio::null()).spawn().unwrap()
    }

    fn coordinator(&self) -> Child {
        let (job, data) = (
            self.bench.job.to_str().unwrap(),
            self.bench.data.to_str().unwrap(),
        );
        let tokens = self.folder().join("tokens");
        let words = [
            "--json",
            "coordinator",
            job,
            "--data",
            data,
            "--listen",
            &self.address,
        ];
        let mut command = self.with_certificate("coordinator", &words);
        command.args(["--store", "s3://bucket/x", "--workers", "2", "--tokens"]);
        self.start("coordinator", command.arg(tokens))
    }

    fn worker(&self, number: usize) -> Child {
        let url = format!("https://{}", self.address);
        let words = ["worker", "--coordinator", &url, "--threads", "1"];
        let mut command = self.with_certificate("worker", &words);
        self.start(&format!("worker{number}"), &mut command)
    }

    /// What a person's command says; it is kept, too.
    fn person(&self, name: &str, command: &mut Command) -> Output {
        let output = command.output().unwrap();
        let keep = |end: &str, bytes: &[u8]| {
            fs::write(self.written().join(format!("{name}.{end}")), bytes).unwrap();
        };
        keep("out", &output.stdout);
        keep("err", &output.stderr);
        output
    }

    /// Every secret there is, with what it is.
    fn secrets(&self) -> Vec<(String, String)> {
        let mut secrets = vec![("the store's key".to_string(), STORE_SECRET.to_string())];
        for name in [
            "ca.key",
            "coordinator.key",
            "worker.key",
            "operator.key",
            "ann.token",
        ] {
            let text = fs::read_to_string(self.folder().join(name)).unwrap();
            let lines = text
                .lines()
                .filter(|line| !line.contains("-----") && line.len() > 20);
            secrets.extend(lines.map(|line| (name.to_string(), line.to_string())));
        }
        secrets
    }

    fn told(&self, name: &str) -> String {
        fs::read_to_string(self.written().join(name)).unwrap_or_default()
    }
}

/// Every file below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push(path),
        }
    }
    found
}

/// What it says, but for most of the tensors.
fn text_of(path: &Path) -> String {
    let bytes = fs::read(path).unwrap();
    let is_tensors = path.extension().is_some_and(|end| end == "safetensors");
    let end = if is_tensors {
        bytes.len().min(1 << 16)
    } else {
        bytes.len()
    };
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

#[test]
fn an_encrypted_cluster_trains_the_same_weights_and_tells_no_secret() {
    // Long enough that it still trains when people have asked.
    let bench = Bench::new(&JOB.replace("epochs = 2", "epochs = 5"));
    let plain = run(&mut bench.train(&bench.store("plain"), 1, 2)).hashes();
    let s3 = bench.folder.path().join("s3");
    let (endpoint, _server) = serve_s3(&s3, STORE_SECRET);
    let installation = Installation::new(&bench, endpoint);

    let mut processes = Processes(vec![installation.coordinator()]);
    processes
        .0
        .extend([1, 2].map(|number| installation.worker(number)));
    wait_until(PATIENCE, "a step", || {
        installation
            .told("coordinator.out")
            .contains("\"event\":\"step\"")
    });
    // Who shows nothing is refused, the token opens, and neither is in a list of processes.
    let status = ["status", "exact", "--store", "s3://bucket/x"];
    let refused = installation.person("nobody", &mut installation.command(&status));
    let words = String::from_utf8_lossy(&refused.stdout).into_owned();
    assert!(words.contains("show a token"), "{refused:?}");
    let token = fs::read_to_string(installation.folder().join("ann.token")).unwrap();
    let scale = ["scale", "exact", "2", "--store", "s3://bucket/x"];
    let mut scale = installation.command(&scale);
    let scaled = installation.person("ann", scale.env("PERENNIAL_TOKEN", token.trim()));
    assert!(scaled.status.success(), "{scaled:?}");
    for process in &processes.0 {
        let line =
            fs::read_to_string(format!("/proc/{}/cmdline", process.id())).unwrap_or_default();
        for (what, secret) in installation.secrets() {
            assert!(!line.contains(&secret), "{what} is in a process list");
        }
    }
    let mut operator = installation.with_certificate("operator", &status);
    let seen = installation.person("operator", &mut operator);
    assert!(seen.status.success(), "{seen:?}");

    for process in &mut processes.0 {
        let ended = process.wait().unwrap();
        assert!(ended.success(), "{}", installation.told("coordinator.err"));
    }
    let events = installation.told("coordinator.out");
    let finished: serde_json::Value = serde_json::from_str(events.lines().last().unwrap()).unwrap();
    assert_eq!(finished["weights_sha256"], plain.0.as_str(), "{finished}");
    assert_eq!(finished["ema_sha256"], plain.1.as_str(), "{finished}");

    let mut written = files(&installation.written());
    written.extend(files(&s3));
    assert!(
        installation.told("worker1.err").len() > 10_000,
        "it told much"
    );
    assert!(written.len() > 20, "there is a store: {written:?}");
    for path in written {
        let text = text_of(&path);
        for (what, secret) in installation.secrets() {
            assert!(!text.contains(&secret), "{what} is in {}", path.display());
        }
    }
}
