//! Certificates that are replaced and revoked while the processes that use them run.

mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use support::{Bench, JOB, free_address, perennial, run, wait_until};

const PATIENCE: Duration = Duration::from_secs(300);

/// A folder with `ca.pem`, certificates and keys, as a machine has it.
struct Certificates(PathBuf);

/// Processes that do not outlive the test, and what they wrote.
struct Processes {
    folder: PathBuf,
    children: Vec<(String, Child)>,
}

// === impl Certificates ===

impl Certificates {
    /// A new authority in the folder, and what it issued.
    fn issued(folder: PathBuf, names: &[&str]) -> Self {
        let own = Self(folder);
        own.certs("init", &[]);
        own.certs("issue", names);
        own
    }

    fn certs(&self, what: &str, words: &[&str]) {
        let mut command = perennial();
        command.args(["certs", what]).arg(&self.0).args(words);
        let made = command.output().unwrap();
        assert!(made.status.success(), "{made:?}");
    }

    fn file(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Another machine that is given some of the files.
    fn on_another_machine(&self, folder: PathBuf, names: &[&str]) -> Self {
        fs::create_dir(&folder).unwrap();
        let other = Self(folder);
        for name in names {
            fs::copy(self.file(name), other.file(name)).unwrap();
        }
        other
    }

    /// Puts `text` in place of a file, as whoever distributes certificates does.
    fn replace(&self, name: &str, text: &str) {
        let new = self.file(&format!("{name}.new"));
        fs::write(&new, text).unwrap();
        fs::rename(new, self.file(name)).unwrap();
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap()
    }

    /// `perennial WORDS` as the party of this name.
    fn command(&self, name: &str, words: &[&str]) -> Command {
        let mut command = perennial();
        command.args(words);
        command.arg("--tls-ca").arg(self.file("ca.pem"));
        let own = |end: &str| self.file(&format!("{name}.{end}"));
        command.arg("--tls-cert").arg(own("pem"));
        command.arg("--tls-key").arg(own("key"));
        command
    }

    fn asked(&self, words: &[&str]) -> Result<Value, String> {
        let mut command = self.command("operator", words);
        let output = command.arg("--json").output().unwrap();
        match output.status.success() {
            true => Ok(serde_json::from_slice(&output.stdout).unwrap_or_default()),
            false => Err(String::from_utf8(output.stderr).unwrap()),
        }
    }
}

// === impl Processes ===

impl Processes {
    fn new(folder: &Path) -> Self {
        let folder = folder.join("written");
        fs::create_dir(&folder).unwrap();
        Self {
            folder,
            children: Vec::new(),
        }
    }

    fn start(&mut self, name: &str, mut command: Command) {
        let file = |end: &str| File::create(self.folder.join(format!("{name}.{end}"))).unwrap();
        command.stdin(Stdio::null()).env("PERENNIAL_LOG", "info");
        command.stdout(file("out")).stderr(file("err"));
        let child = command.spawn().unwrap();
        self.children.push((name.to_string(), child));
    }

    fn told(&self, name: &str) -> String {
        fs::read_to_string(self.folder.join(name)).unwrap_or_default()
    }

    /// What the coordinator of this name has told, line by line.
    fn events(&self, name: &str) -> Vec<Value> {
        let text = self.told(&format!("{name}.out"));
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        whole
            .lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    fn wait_for_event(&self, name: &str, what: &str, fits: impl Fn(&Value) -> bool) {
        wait_until(PATIENCE, what, || self.events(name).iter().any(&fits));
    }

    /// The end of a process: whether all was well.
    fn end(&mut self, name: &str) -> bool {
        let place = self.children.iter().position(|(own, _)| own == name);
        let (_, mut child) = self.children.remove(place.unwrap());
        child.wait().unwrap().success()
    }

    fn kill(&mut self, name: &str) {
        let place = self.children.iter().position(|(own, _)| own == name);
        let (_, child) = &mut self.children[place.unwrap()];
        child.kill().unwrap();
        self.end(name);
    }
}

impl Drop for Processes {
    fn drop(&mut self) {
        for (_, child) in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn worker(own: &Certificates, name: &str, address: &str) -> Command {
    let url = format!("https://{address}");
    own.command(name, &["worker", "--coordinator", &url, "--threads", "1"])
}

/// Another authority takes over while the job trains: in the end nobody trusts the first one any more.
#[test]
fn certificates_are_replaced_under_a_running_job_without_a_lost_step() {
    let job = JOB.replace("epochs = 2", "epochs = 8");
    let bench = Bench::new(&job.replace("every_steps = 3", "every_steps = 0"));
    let plain = run(&mut bench.train(&bench.store("plain"), 1, 2)).hashes();
    let folder = bench.folder.path();
    let parties = ["coordinator", "worker", "operator"];
    let own = Certificates::issued(folder.join("certs"), &parties);
    let next = Certificates::issued(folder.join("next"), &parties);

    let mut processes = Processes::new(folder);
    let (address, store) = (free_address(), bench.store("encrypted"));
    let (file, data) = (bench.job.to_str().unwrap(), bench.data.to_str().unwrap());
    let words = ["--json", "coordinator", file, "--data", data];
    let mut coordinator = own.command("coordinator", &words);
    coordinator.args(["--listen", &address, "--store", &store, "--workers", "2"]);
    processes.start("coordinator", coordinator);
    for name in ["one", "two"] {
        processes.start(name, worker(&own, "worker", &address));
    }
    processes.wait_for_event("coordinator", "a step", |event| event["event"] == "step");

    // For a while both are trusted; then everybody is known by the new one; then the old one is gone.
    own.replace("ca.pem", &(own.text("ca.pem") + &next.text("ca.pem")));
    for party in parties {
        for end in ["pem", "key"] {
            let name = format!("{party}.{end}");
            own.replace(&name, &next.text(&name));
        }
    }
    own.replace("ca.pem", &next.text("ca.pem"));

    // Who knows the new authority alone believes the coordinator, and the members of whom it copies the replica.
    let late = [
        "ca.pem",
        "worker.pem",
        "worker.key",
        "operator.pem",
        "operator.key",
    ];
    let late = next.on_another_machine(folder.join("late"), &late);
    late.asked(&["scale", "exact", "3", "--store", &store])
        .unwrap();
    processes.start("three", worker(&late, "worker", &address));
    processes.wait_for_event("coordinator", "a generation of three", |event| {
        event["event"] == "started" && event["workers"] == 3
    });
    assert!(
        processes.end("coordinator"),
        "{}",
        processes.told("coordinator.err")
    );
    for name in ["one", "two", "three"] {
        assert!(
            processes.end(name),
            "{}",
            processes.told(&format!("{name}.err"))
        );
    }
    for name in ["coordinator", "one", "two"] {
        let told = processes.told(&format!("{name}.err"));
        assert!(
            told.contains("certificates were replaced"),
            "{name}: {told}"
        );
    }
    let events = processes.events("coordinator");
    let named = |name: &str| events.iter().filter(|event| event["event"] == name).count();
    assert_eq!(named("worker_lost"), 0, "{events:?}");
    let steps = events.iter().filter(|event| event["event"] == "step");
    let steps: Vec<u64> = steps.filter_map(|it| it["global_step"].as_u64()).collect();
    let all: Vec<u64> = (1..=steps.len() as u64).collect();
    assert_eq!(steps, all, "each step is computed once");
    let finished = events.last().unwrap();
    assert_eq!(finished["weights_sha256"], plain.0.as_str(), "{finished}");
    assert_eq!(finished["ema_sha256"], plain.1.as_str(), "{finished}");
}

#[test]
fn a_worker_whose_certificate_was_revoked_has_to_go_is_refused_and_with_another_is_welcome() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let own = Certificates::issued(folder.join("certs"), &["coordinator", "operator"]);
    own.certs("issue", &["lost", "--role", "worker"]);
    let files = ["ca.pem", "lost.pem", "lost.key"];
    let lost = own.on_another_machine(folder.join("lost"), &files);

    let mut processes = Processes::new(folder);
    let (address, store) = (free_address(), folder.join("store").display().to_string());
    let words = [
        "--json",
        "coordinator",
        "--listen",
        &address,
        "--store",
        &store,
    ];
    processes.start("coordinator", own.command("coordinator", &words));
    processes.wait_for_event("coordinator", "a term", |event| event["entry"] == "term");
    let present = || {
        let look = own.asked(&["top", "--count", "1", "--store", &store]);
        look.unwrap()["queue"]["workers"].as_array().map(Vec::len)
    };
    processes.start("before", worker(&lost, "lost", &address));
    wait_until(PATIENCE, "a worker", || present() == Some(1));

    own.certs("revoke", &["lost"]);
    wait_until(PATIENCE, "its absence", || present() == Some(0));
    let told = processes.told("coordinator.err");
    assert!(told.contains("closed the connection of"), "{told}");
    processes.kill("before");
    processes.start("revoked", worker(&lost, "lost", &address));
    assert!(!processes.end("revoked"));
    let told = processes.told("revoked.err");
    let words = "it refuses this party's certificate: it was revoked";
    assert!(told.contains(words), "{told}");
    let told = processes.told("coordinator.err");
    assert!(told.contains("its certificate was revoked"), "{told}");
    assert_eq!(present(), Some(0));
    // Who has the list does not even try.
    processes.start("knowing", worker(&own, "lost", &address));
    assert!(!processes.end("knowing"));
    let told = processes.told("knowing.err");
    assert!(told.contains("cannot be used: it was revoked"), "{told}");

    own.certs("issue", &["lost", "--role", "worker", "--replace"]);
    processes.start("replaced", worker(&own, "lost", &address));
    wait_until(PATIENCE, "the worker again", || present() == Some(1));
}
