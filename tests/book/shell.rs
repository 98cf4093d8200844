//! The terminal of a reader: one folder and one environment for a page.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::pages::{Do, Page, Step};
use crate::support::serve_s3;

/// How long a command of the book may take.
const PATIENCE: Duration = Duration::from_secs(180);
/// How long what was left running may take to end.
const WIND_UP: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(100);
/// Where a reader is, in what the book shows.
const HOME: &str = "/home/ann";

pub struct Shell {
    folder: TempDir,
    /// What stands in the book, and what a command has in its place.
    replaced: Vec<(String, String)>,
    elsewhere: Vec<Child>,
    /// Groups of processes that a script may have left behind.
    groups: Vec<u32>,
    outputs: usize,
    _s3: tokio::runtime::Runtime,
}

// === impl Shell ===

impl Shell {
    /// In an empty folder, with the program in `PATH` and a server of S3.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("there is room");
        for name in ["home", "bin", "s3", "state"] {
            std::fs::create_dir(folder.path().join(name)).expect("there is room");
        }
        let program = folder.path().join("bin/perennial");
        std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_perennial"), program).expect("a link");
        let (endpoint, s3) = serve_s3(&folder.path().join("s3"), "secret");
        let mut replaced = vec![
            ("cargo run --release --".into(), "perennial".into()),
            ("target/release/perennial".into(), "perennial".into()),
            ("http://127.0.0.1:8333".into(), endpoint),
            (
                "AWS_ACCESS_KEY_ID=...".into(),
                "AWS_ACCESS_KEY_ID=key".into(),
            ),
            (
                "AWS_SECRET_ACCESS_KEY=...".into(),
                "AWS_SECRET_ACCESS_KEY=secret".into(),
            ),
        ];
        // Others may have these.
        for port in ["7400", "7401"] {
            replaced.push((format!(":{port}"), format!(":{}", free_port())));
        }
        let home = folder.path().join("home");
        std::fs::write(folder.path().join("state/cwd"), home.to_str().unwrap()).unwrap();
        std::fs::write(folder.path().join("state/env"), "").unwrap();
        Self {
            folder,
            replaced,
            elsewhere: Vec::new(),
            groups: Vec::new(),
            outputs: 0,
            _s3: s3,
        }
    }

    /// Does what a step of the page says.
    pub fn take(&mut self, step: &Step, page: &Page) {
        let place = format!("{}:{}", page.path.display(), step.line);
        let text = self.replace(&step.text);
        match &step.what {
            Do::Write { name } => {
                std::fs::write(self.folder.path().join("home").join(name), text).unwrap();
            }
            Do::Run { status } => {
                let (found, printed) = self.run(&text, &place);
                assert_eq!(found, Some(*status), "{place}: `{text}` said\n{printed}");
            }
            Do::Show { status, printed } => {
                let printed = self.replace(&printed.join("\n"));
                let start = Instant::now();
                loop {
                    let (found, said) = self.run(&text, &place);
                    assert_eq!(found, Some(*status), "{place}: `{text}` said\n{said}");
                    let Err(line) = compare(&printed, &said) else {
                        break;
                    };
                    // How a job stands may be another thing at one moment; a reader looks again.
                    assert!(
                        text.starts_with("perennial status ") && start.elapsed() < PATIENCE,
                        "{place}: `{text}` does not say `{line}` there, but\n{said}"
                    );
                    std::thread::sleep(LOOK);
                }
            }
            Do::Until => {
                let start = Instant::now();
                loop {
                    let (status, printed) = self.run(&text, &place);
                    if status == Some(0) {
                        break;
                    }
                    let waited = start.elapsed();
                    assert!(
                        waited < PATIENCE,
                        "{place}: `{text}` never succeeds: {printed}\n{}",
                        self.heard()
                    );
                    std::thread::sleep(LOOK);
                }
            }
            Do::Elsewhere => {
                let output = self.output();
                let child = self.script(&text, &output, false).spawn().expect("a shell");
                self.elsewhere.push(child);
            }
            Do::Where { from, to } => self.replaced.push((from.clone(), to.clone())),
            Do::Parse { .. } => {}
        }
    }

    fn replace(&self, text: &str) -> String {
        let replaced = self.replaced.iter();
        replaced.fold(text.to_string(), |text, (from, to)| text.replace(from, to))
    }

    fn output(&mut self) -> PathBuf {
        self.outputs += 1;
        self.folder.path().join(format!("state/{}", self.outputs))
    }

    /// A shell that goes on where the one before ended. It is given here where that was: by the time it runs, the next one
    /// may be writing where it ends itself.
    fn script(&self, text: &str, output: &Path, remembers: bool) -> Command {
        let state = self.folder.path().join("state");
        let read = |name| std::fs::read_to_string(state.join(name)).expect("a shell wrote it");
        let (variables, folder) = (read("env"), read("cwd"));
        let state = state.display();
        let remember = match remembers {
            true => format!("trap 'export -p >\"{state}/env\"; pwd >\"{state}/cwd\"' EXIT\n"),
            false => String::new(),
        };
        let script = format!("{variables}\n{remember}set -eu\n{text}\n");
        let path = std::env::var("PATH").unwrap_or_default();
        let file = File::create(output).expect("a file");
        let mut command = Command::new("sh");
        command
            .arg("-c")
            .arg(script)
            .current_dir(folder.trim_end())
            .env_clear()
            .env(
                "PATH",
                format!("{}:{path}", self.folder.path().join("bin").display()),
            )
            .env("HOME", self.folder.path().join("home"))
            .env("TMPDIR", self.folder.path())
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a file"))
            .stderr(file)
            .process_group(0);
        command
    }

    /// Its exit status, and what it printed.
    fn run(&mut self, text: &str, place: &str) -> (Option<i32>, String) {
        let output = self.output();
        let mut child = self.script(text, &output, true).spawn().expect("a shell");
        if text.contains('&') {
            self.groups.push(child.id());
        }
        let ended = ends_within(&mut child, PATIENCE);
        if !ended {
            signal_group(child.id(), "KILL");
            let _ = child.wait();
        }
        let printed = self.read(&output);
        assert!(
            ended,
            "{place}: `{text}` does not end, and says\n{printed}\n{}",
            self.heard()
        );
        (child.wait().expect("it has ended").code(), printed)
    }

    fn read(&self, output: &Path) -> String {
        let home = self.folder.path().join("home").display().to_string();
        let printed = std::fs::read(output).unwrap_or_default();
        String::from_utf8_lossy(&printed).replace(&home, HOME)
    }

    /// What all commands so far have printed, the last ones last; what was asked for again and again, once.
    fn heard(&self) -> String {
        let mut heard: Vec<String> = Vec::new();
        for number in (1..=self.outputs).rev() {
            let path = self.folder.path().join(format!("state/{number}"));
            let text = self.read(&path);
            if !text.is_empty() && !heard.contains(&text) && heard.len() < 12 {
                heard.push(text);
            }
        }
        heard.reverse();
        heard.join("---\n")
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        for child in &self.elsewhere {
            signal_group(child.id(), "TERM");
        }
        for child in &mut self.elsewhere {
            if !ends_within(child, WIND_UP) {
                signal_group(child.id(), "KILL");
                let _ = child.wait();
            }
        }
        for group in &self.groups {
            signal_group(*group, "KILL");
        }
    }
}

fn ends_within(child: &mut Child, patience: Duration) -> bool {
    let start = Instant::now();
    while matches!(child.try_wait(), Ok(None)) {
        if start.elapsed() > patience {
            return false;
        }
        std::thread::sleep(LOOK);
    }
    true
}

/// To a shell and all that it has started, by the number of the shell.
fn signal_group(group: u32, name: &str) {
    let _ = Command::new("kill")
        .args([&format!("-{name}"), "--", &format!("-{group}")])
        .stderr(Stdio::null())
        .status();
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("a port").port()
}

/// The first line of what the book shows that was not printed where it should be.
fn compare(shown: &str, printed: &str) -> Result<(), String> {
    // A slow machine has its warnings, which the book need not show.
    let warned = shown.contains("warning: ");
    let printed: Vec<String> = printed
        .lines()
        .filter(|line| warned || !line.starts_with("warning: "))
        .map(shape)
        .collect();
    let mut at = 0;
    let mut may_skip = false;
    for line in shown.lines() {
        if line.trim() == "..." {
            may_skip = true;
            continue;
        }
        let wanted = shape(line);
        let rest = printed.get(at..).unwrap_or_default();
        let found = match may_skip {
            true => rest.iter().position(|line| fits(&wanted, line)),
            false => rest.first().filter(|line| fits(&wanted, line)).map(|_| 0),
        };
        at += found.ok_or_else(|| line.to_string())? + 1;
        may_skip = false;
    }
    match printed.get(at) {
        Some(line) if !may_skip && !shown.is_empty() => Err(format!("(the end before `{line}`)")),
        _ => Ok(()),
    }
}

/// Whether a line is as the book shows it, where `...` stands for any text.
fn fits(wanted: &str, line: &str) -> bool {
    let parts: Vec<&str> = wanted.split("...").collect();
    let [first, middle @ .., last] = parts.as_slice() else {
        return wanted == line;
    };
    let Some(mut rest) = line.strip_prefix(first) else {
        return false;
    };
    for part in middle {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// A line without what another run may say otherwise: numbers, hashes and the width of columns.
fn shape(line: &str) -> String {
    let words: Vec<&str> = line.split_whitespace().collect();
    let line = without_hashes(&words.join(" "));
    let mut shape = String::new();
    let mut letters = line.chars().peekable();
    while let Some(letter) = letters.next() {
        if !letter.is_ascii_digit() {
            shape.push(letter);
            continue;
        }
        shape.push('#');
        while let Some(next) = letters.peek().copied() {
            let mut ahead = letters.clone();
            ahead.next();
            let goes_on = next.is_ascii_digit()
                || (matches!(next, '.' | ',') && ahead.peek().is_some_and(char::is_ascii_digit));
            if !goes_on {
                break;
            }
            letters.next();
        }
    }
    shape
        .replace("# min # s", "# s")
        .replace("# h # min", "# s")
}

/// `#` in place of what is 16 hexadecimal digits or more.
fn without_hashes(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while !rest.is_empty() {
        let digits = rest.find(|letter: char| !letter.is_ascii_hexdigit());
        let digits = digits.unwrap_or(rest.len());
        text.push_str(if digits < 16 { &rest[..digits] } else { "#" });
        let others = rest[digits..].find(|letter: char| letter.is_ascii_hexdigit());
        let others = digits + others.unwrap_or(rest.len() - digits);
        text.push_str(&rest[digits..others]);
        rest = &rest[others..];
    }
    text
}

#[test]
fn numbers_hashes_and_widths_may_be_others_and_words_may_not() {
    let shown = "worker   state\nw1  1,209.5 pictures, 3 min 05 s\n...\nend ... of 3";
    assert_eq!(
        compare(
            shown,
            "worker state\nw2 7 pictures, 4.2 s\nx\ny\nend which of 4"
        ),
        Ok(())
    );
    assert!(compare(shown, "worker state\nw2 7 photographs, 4.2 s\nend of 4").is_err());
    assert!(compare("a", "a\nb").is_err());
    assert!(compare("a\n...", "a\nb").is_ok());
    assert_eq!(shape("weights  0123456789abcdef0123"), "weights #");
    assert_eq!(
        shape("\"sha256\":\"0123456789abcdef0123\""),
        "\"sha#\":\"#\""
    );
}
