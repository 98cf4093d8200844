//! Every command of this program in the documentation is one that it takes, whether or not a test can run it.

#[path = "../../../tests/book/pages.rs"]
mod pages;

use std::path::PathBuf;

use clap::{CommandFactory, Parser};

use super::Cli;
use pages::{Page, chapters, root};

fn documentation() -> Vec<PathBuf> {
    let names = [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ];
    let mut paths: Vec<PathBuf> = names.iter().map(|name| root().join(name)).collect();
    paths.extend(chapters());
    paths
}

/// The calls of the program in a script, each as its words. Knows quotes, comments, assignments, redirections and what
/// stands between two commands; that is all that the documentation uses.
fn calls(script: &str) -> Vec<Vec<String>> {
    let script = script.replace("\\\n", " ");
    let script = script.replace("cargo run --release --", "perennial");
    let mut calls = Vec::new();
    for line in script.lines() {
        let mut commands: Vec<Vec<String>> = vec![Vec::new()];
        let mut word = String::new();
        let mut quote = None;
        for letter in format!("{line} ").chars() {
            match (letter, quote) {
                (letter, Some(open)) if letter == open => quote = None,
                (letter, Some(_)) => word.push(letter),
                ('\'' | '"', None) => quote = Some(letter),
                ('#', None) if word.is_empty() => break,
                (' ' | ';' | '|' | '&' | '(' | ')', None) => {
                    let command = commands.last_mut().expect("there is one");
                    if !word.is_empty() {
                        command.push(std::mem::take(&mut word));
                    }
                    if letter != ' ' {
                        commands.push(Vec::new());
                    }
                }
                (letter, None) => word.push(letter),
            }
        }
        for command in commands {
            let words = command.into_iter();
            let is_assignment = |word: &String| {
                let name = word.split_once('=').map_or("", |(name, _)| name);
                !name.is_empty() && name.chars().all(|it| it.is_ascii_uppercase() || it == '_')
            };
            let starters = ["!", "until", "while", "do", "if", "then", "exec", "time"];
            let mut words = words
                .skip_while(|word| is_assignment(word) || starters.contains(&word.as_str()))
                .take_while(|word| !word.contains('>'))
                .peekable();
            let is_ours = |word: &String| word.rsplit('/').next() == Some("perennial");
            if words.peek().is_some_and(is_ours) {
                calls.push(words.collect());
            }
        }
    }
    calls
}

#[test]
fn every_command_in_the_documentation_is_parsed() {
    let mut seen = 0;
    for path in documentation() {
        let page = Page::read(&path);
        for step in page.steps.iter().filter(|step| step.is_command()) {
            for call in calls(&step.text) {
                seen += 1;
                if let Err(error) = Cli::try_parse_from(&call) {
                    let helps = [
                        clap::error::ErrorKind::DisplayHelp,
                        clap::error::ErrorKind::DisplayVersion,
                    ];
                    let place = format!("{}:{}", path.display(), step.line);
                    assert!(
                        helps.contains(&error.kind()),
                        "{place}: `{}`: {error}",
                        call.join(" ")
                    );
                }
            }
        }
    }
    assert!(seen > 50, "only {seen} commands are read");
}

#[test]
fn every_command_that_the_documentation_names_in_passing_is_there() {
    let program = Cli::command();
    for path in documentation() {
        let text = std::fs::read_to_string(&path).unwrap();
        for rest in text.split("`perennial ").skip(1) {
            let words = rest.split('`').next().unwrap_or_default();
            let mut command = &program;
            for word in words.split_whitespace() {
                if !command.has_subcommands() || word.starts_with('-') {
                    break;
                }
                command = command.find_subcommand(word).unwrap_or_else(|| {
                    panic!("{}: there is no `perennial {words}`", path.display())
                });
            }
        }
    }
}

#[test]
fn calls_are_found_among_other_words() {
    let script = "A=1 perennial status --store 's3://a b' >x # perennial no\n! perennial top | head; perennial doctor\nls";
    let found = calls(script);
    assert_eq!(found[0], ["perennial", "status", "--store", "s3://a b"]);
    assert_eq!(found[1], ["perennial", "top"]);
    assert_eq!(found[2], ["perennial", "doctor"]);
    assert_eq!(found.len(), 3);
}
