use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Ran, command, names, ran, run, trained, workshop};

/// A coordinator that waits for workers.
struct Waiting(Child);

impl Waiting {
    /// Returns once it listens at `address`.
    fn start(folder: &Path, address: &str, json: bool) -> Self {
        let mut command = command(folder);
        command.args(["coordinator", "job.toml", "--listen", address]);
        if json {
            command.arg("--json");
        }
        let child = command
            .env("PERENNIAL_LOG", "warn")
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::net::TcpStream::connect(address).is_err() {
            assert!(Instant::now() < deadline, "it never listened");
            std::thread::yield_now();
        }
        Self(child)
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let sent = std::process::Command::new("kill")
            .args([name, &pid])
            .status()
            .unwrap();
        assert!(sent.success());
    }

    fn end(&mut self) -> Ran {
        let mut stderr = String::new();
        let mut stdout = String::new();
        let status = self.0.wait().unwrap();
        let (out, err) = (self.0.stdout.take().unwrap(), self.0.stderr.take().unwrap());
        BufReader::new(out).read_to_string(&mut stdout).unwrap();
        BufReader::new(err).read_to_string(&mut stderr).unwrap();
        Ran {
            code: status.code(),
            stdout,
            stderr,
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An address that is free now.
fn free_address() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

#[cfg(unix)]
#[test]
fn ctrl_c_and_sigterm_stop_the_run_and_say_how_to_go_on() {
    for signal in ["-INT", "-TERM"] {
        let folder = workshop();
        let address = free_address();
        let mut waiting = Waiting::start(folder.path(), &address, false);
        waiting.signal(signal);
        let ran = waiting.end();
        assert_eq!(ran.code, Some(130), "{ran:?}");
        assert!(ran.stdout.contains("stopped after step 0"), "{ran:?}");
        let resume =
            format!("coordinator job.toml --listen {address} --store perennial-store --resume");
        assert!(ran.stdout.contains(&resume), "{ran:?}");
    }
}

#[cfg(unix)]
#[test]
fn with_json_every_line_of_stdout_is_an_event() {
    let folder = workshop();
    let mut waiting = Waiting::start(folder.path(), &free_address(), true);
    waiting.signal("-INT");
    let ran = waiting.end();
    let events: Vec<serde_json::Value> = ran
        .stdout
        .as_bytes()
        .lines()
        .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
        .collect();
    assert_eq!(events.last().unwrap()["event"], "stopped", "{ran:?}");
}

#[test]
fn a_port_in_use_and_an_address_that_is_none_are_named() {
    let folder = workshop();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let line = ["coordinator", "job.toml", "--listen", &address];
    let sentence = run(folder.path(), &line).refused(1);
    assert!(
        sentence.starts_with(&format!("the address `{address}` is in use")),
        "{sentence}"
    );
    let line = ["coordinator", "job.toml", "--listen", "nonsense"];
    let sentence = run(folder.path(), &line).refused(1);
    assert!(sentence.contains("`nonsense`"), "{sentence}");
}

/// The body of the answer to `GET /metrics`.
fn scrape(address: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    body.to_string()
}

/// What the dashboard shows is what the coordinator tells.
#[test]
fn a_running_job_is_watched_and_stopped_from_another_terminal() {
    let folder = workshop();
    let address = free_address();
    let mut waiting = Waiting::start(folder.path(), &address, false);
    let status = |arguments: &[&str]| run(folder.path(), &[&["status"], arguments].concat());
    // It listens before it has written that it rules.
    let deadline = Instant::now() + Duration::from_secs(20);
    let seen = loop {
        let told = status(&["tiny", "--json"]);
        if told.stdout.contains("\"waiting\"") {
            break told.json();
        }
        assert!(Instant::now() < deadline, "{told:?}");
    };
    assert_eq!(seen["coordinator"], address.as_str(), "{seen}");
    assert_eq!(seen["total_steps"], serde_json::Value::Null, "{seen}");
    let all = status(&[]).ok();
    let row = all.lines().nth(1).unwrap();
    assert!(row.starts_with("tiny  waiting"), "{all}");

    let metrics = scrape(&address);
    let on = "perennial_phase{job=\"tiny\",phase=\"waiting\"} 1.0";
    assert!(metrics.lines().any(|line| line == on), "{metrics}");
    let dashboard = include_str!("../../../deploy/grafana/perennial.json");
    let shown = dashboard.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    let shown: Vec<&str> = shown
        .filter(|word| word.starts_with("perennial_"))
        .collect();
    assert!(shown.len() > 10, "{shown:?}");
    for name in shown {
        // A counter's samples end in `_total`, its name does not; there are no workers and no epochs yet.
        let name = name.strip_suffix("_total").unwrap_or(name);
        let told = metrics.contains(&format!("# TYPE {name} "));
        let not_yet = ["perennial_workers", "perennial_val_top1"].contains(&name)
            || name.starts_with("perennial_worker_");
        assert!(told || not_yet, "`{name}` is not in {metrics}");
    }

    let stopping = run(folder.path(), &["stop", "tiny"]).ok();
    assert!(stopping.starts_with("job `tiny` stops"), "{stopping}");
    let ran = waiting.end();
    assert_eq!(ran.code, Some(130), "{ran:?}");
    assert!(ran.stdout.contains("stopped after step 0"), "{ran:?}");
    let sentence = run(folder.path(), &["stop", "tiny"]).refused(1);
    assert!(sentence.starts_with("job `tiny` is stopped"), "{sentence}");
    let over = status(&["tiny"]).ok();
    assert!(over.contains("--resume"), "{over}");
}

/// What the last of these words may be, as bash asks for it.
fn complete(folder: &Path, words: &[&str]) -> Vec<String> {
    let mut command = command(folder);
    command.env("PERENNIAL_COMPLETE", "bash");
    command.env("_CLAP_COMPLETE_INDEX", (words.len() - 1).to_string());
    let answer = ran(command.arg("--").args(words).output().unwrap()).ok();
    answer.lines().map(String::from).collect()
}

#[test]
fn a_shell_completes_the_names_of_jobs_and_workers() {
    let folder = trained();
    let folder = folder.path();
    for shell in ["bash", "elvish", "fish", "powershell", "zsh"] {
        let script = run(folder, &["completions", shell]).ok();
        assert!(script.contains("PERENNIAL_COMPLETE"), "{shell}: {script}");
    }
    assert_eq!(complete(folder, &["perennial", "status", "t"]), ["tiny"]);
    let both = complete(folder, &["perennial", "curves", ""]);
    assert!(
        both.starts_with(&["job.toml".into(), "tiny".into()]),
        "{both:?}"
    );
    let elsewhere = ["perennial", "status", "--store", "nowhere", "t"];
    assert_eq!(complete(folder, &elsewhere), [""; 0]);
    let worker = ["perennial", "logs", "tiny", "--worker", ""];
    assert_eq!(complete(folder, &worker), ["w1"]);
}

#[test]
fn completions_and_manual_pages_know_every_command() {
    let folder = tempfile::tempdir().unwrap();
    let offered = complete(folder.path(), &["perennial", ""]);
    run(folder.path(), &["man", "pages/man1"]).ok();
    let pages = names(&folder.path().join("pages/man1"));
    for command in ["train", "status", "stop", "scale", "chaos", "bench-step"] {
        let page = format!("perennial-{command}.1");
        assert!(pages.contains(&page), "no {page} in {pages:?}");
        let word = command.split('-').next().unwrap();
        assert!(offered.contains(&word.to_string()), "no {word}");
    }
    let sentence = run(folder.path(), &["man", "/dev/null/pages"]).refused(1);
    assert!(sentence.contains("/dev/null/pages"), "{sentence}");
}

#[test]
fn a_job_is_checked_before_it_is_submitted_and_needs_a_queue() {
    let folder = workshop();
    let job = run(folder.path(), &["submit", "job.toml", "--dry-run"]).ok();
    for line in ["name = \"tiny\"", "batch_size = 8", "min_workers = 1"] {
        assert!(job.lines().any(|it| it == line), "no `{line}` in {job}");
    }
    let epochs = ["submit", "job.toml", "--dry-run", "--set", "train.epochs=0"];
    assert!(
        run(folder.path(), &epochs)
            .refused(2)
            .contains("`train.epochs`")
    );
    let nothing = ["submit", "job.toml", "--set", "data.dir="];
    assert!(
        run(folder.path(), &nothing)
            .refused(2)
            .contains("`data.dir`")
    );
    let most = [
        "submit",
        "job.toml",
        "--workers",
        "1",
        "--set",
        "elastic.min_workers=2",
    ];
    assert!(
        run(folder.path(), &most)
            .refused(1)
            .contains("`elastic.min_workers`")
    );
    let sentence = run(folder.path(), &["submit", "job.toml"]).refused(1);
    assert!(
        sentence.contains("store `perennial-store` is not there"),
        "{sentence}"
    );
    std::fs::create_dir(folder.path().join("perennial-store")).unwrap();
    let sentence = run(folder.path(), &["submit", "job.toml"]).refused(1);
    assert!(
        sentence.contains("`perennial coordinator --listen"),
        "{sentence}"
    );
    let sentence = run(folder.path(), &["coordinator", "--set", "seed=1"]).refused(1);
    assert!(sentence.contains("`perennial submit`"), "{sentence}");
}
