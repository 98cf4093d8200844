//! A page of Markdown as its reader follows it: files to write, commands to run, and what they print.
//!
//! * A block of `toml` whose first line is `# NAME.toml` is a file to write.
//! * A block of `sh` is run as one script. A block of `console` has commands behind `$ ` and what each prints below it; a
//!   line `...` there stands for any lines, and within a line for any text; numbers and hashes may be others.
//! * Comments that begin with `test:` say what a reader knows and the page does not show:
//!   * `run`, and commands below it: they are run, and seen by nobody;
//!   * `until`, and commands below it: run again and again until they succeed;
//!   * `where A is B`: on this page, commands have B in place of A;
//!   * before a block, `elsewhere`: it is run as if in another terminal, and left running;
//!   * before a block, `fails with N`: its last command has that exit status;
//!   * before a block, `parsed, WHY`: it is not run. Lines of the program are parsed all the same, as everywhere.

#![allow(
    dead_code,
    reason = "one test runs the pages, another one parses their commands"
)]

use std::path::{Path, PathBuf};

/// What a reader does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Do {
    Write {
        name: String,
    },
    /// A script, and the exit status that it has.
    Run {
        status: i32,
    },
    /// A command, and what it prints.
    Show {
        status: i32,
        printed: Vec<String>,
    },
    Elsewhere,
    Until,
    Where {
        from: String,
        to: String,
    },
    /// Nothing, and why.
    Parse {
        why: String,
    },
}

#[derive(Debug, Clone)]
pub struct Step {
    /// Of the page, from 1.
    pub line: usize,
    pub what: Do,
    /// Commands, or the file's text.
    pub text: String,
    pub is_seen: bool,
}

#[derive(Debug)]
pub struct Page {
    pub path: PathBuf,
    pub steps: Vec<Step>,
    pub links: Vec<String>,
    /// Of its headings.
    pub anchors: Vec<String>,
}

/// The checkout.
pub fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the crate lies in the checkout")
        .to_path_buf()
}

/// The pages of the book in the order of its summary.
pub fn chapters() -> Vec<PathBuf> {
    let source = root().join("docs/src");
    let summary = Page::read(&source.join("SUMMARY.md"));
    summary.links.iter().map(|link| source.join(link)).collect()
}

// === impl Step ===

impl Step {
    pub fn is_command(&self) -> bool {
        !matches!(self.what, Do::Write { .. } | Do::Where { .. })
    }
}

// === impl Page ===

impl Page {
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
        let mut page = Self {
            path: path.to_path_buf(),
            steps: Vec::new(),
            links: Vec::new(),
            anchors: Vec::new(),
        };
        let lines: Vec<&str> = text.lines().collect();
        let mut at = 0;
        let mut how: Option<String> = None;
        while let Some(line) = lines.get(at) {
            let start = at + 1;
            if let Some(language) = line.strip_prefix("```") {
                let end = lines[start..]
                    .iter()
                    .position(|line| line.starts_with("```"));
                let end =
                    start + end.unwrap_or_else(|| panic!("{}:{start}: no end", path.display()));
                page.block(start, language, &lines[start..end], how.take());
                at = end + 1;
                continue;
            }
            if line.starts_with("<!--") {
                let end = lines[at..].iter().position(|line| line.ends_with("-->"));
                let end = at + end.unwrap_or_else(|| panic!("{}:{start}: no end", path.display()));
                let comment = lines[at..=end].join("\n");
                let comment = comment
                    .trim_start_matches("<!--")
                    .trim_end_matches("-->")
                    .trim();
                if let Some(words) = comment.strip_prefix("test:") {
                    how = page.said(start, words.trim());
                }
                at = end + 1;
                continue;
            }
            page.prose(line);
            at += 1;
        }
        page
    }

    /// A comment for the test; what it says of the next block is returned.
    fn said(&mut self, line: usize, words: &str) -> Option<String> {
        let (first, text) = words.split_once('\n').unwrap_or((words, ""));
        let what = match first {
            "run" => Do::Run { status: 0 },
            "until" => Do::Until,
            _ => match first
                .strip_prefix("where ")
                .and_then(|it| it.split_once(" is "))
            {
                Some((from, to)) => Do::Where {
                    from: from.to_string(),
                    to: to.to_string(),
                },
                None => return Some(words.replace('\n', " ")),
            },
        };
        self.steps.push(Step {
            line,
            what,
            text: text.to_string(),
            is_seen: false,
        });
        None
    }

    fn block(&mut self, line: usize, language: &str, lines: &[&str], how: Option<String>) {
        let place = format!("{}:{line}", self.path.display());
        let how = how.unwrap_or_default();
        let status = how.strip_prefix("fails with ").map_or(0, |status| {
            status
                .parse()
                .unwrap_or_else(|_| panic!("{place}: `{how}`"))
        });
        let why = how.strip_prefix("parsed, ").map(str::to_string);
        let known = how.is_empty() || status != 0 || why.is_some() || how == "elsewhere";
        assert!(known, "{place}: `{how}` is not understood");
        let mut push = |what: Do, text: String| {
            self.steps.push(Step {
                line,
                what,
                text,
                is_seen: true,
            });
        };
        match language {
            "toml" => {
                let name = lines.first().and_then(|line| line.strip_prefix("# "));
                if let Some(name) = name.filter(|name| name.ends_with(".toml")) {
                    let name = name.to_string();
                    push(Do::Write { name }, lines.join("\n") + "\n");
                }
            }
            "sh" => {
                let what = match why {
                    Some(why) => Do::Parse { why },
                    None if how == "elsewhere" => Do::Elsewhere,
                    None => Do::Run { status },
                };
                push(what, lines.join("\n"));
            }
            "console" => {
                let mut commands: Vec<(String, Vec<String>)> = Vec::new();
                let mut goes_on = false;
                for line in lines {
                    match (line.strip_prefix("$ "), commands.last_mut()) {
                        (Some(command), _) => commands.push((command.to_string(), Vec::new())),
                        (None, Some((command, _))) if goes_on => *command += &format!("\n{line}"),
                        (None, Some((_, printed))) => printed.push((*line).to_string()),
                        (None, None) => panic!("{place}: output of no command"),
                    }
                    goes_on = line.ends_with('\\');
                }
                let last = commands.len();
                for (number, (text, printed)) in commands.into_iter().enumerate() {
                    let status = if number + 1 == last { status } else { 0 };
                    let what = match &why {
                        Some(why) => Do::Parse { why: why.clone() },
                        None => Do::Show { status, printed },
                    };
                    push(what, text);
                }
            }
            _ => {}
        }
    }

    fn prose(&mut self, line: &str) {
        let heading = line.trim_start_matches('#');
        if heading.len() < line.len() && heading.starts_with(' ') {
            let letters = heading.trim().to_lowercase();
            let kept = letters.chars().filter_map(|letter| match letter {
                ' ' => Some('-'),
                letter if letter.is_alphanumeric() || "-_".contains(letter) => Some(letter),
                _ => None,
            });
            self.anchors.push(kept.collect());
        }
        for rest in line.split("](").skip(1) {
            if let Some((link, _)) = rest.split_once(')') {
                self.links.push(link.to_string());
            }
        }
    }
}
