use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use crate::support::{Ran, command, run, workshop};

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
