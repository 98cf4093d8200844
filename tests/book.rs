//! Every command of the book and of the README is run by the real program, in the order of the text; where the text shows
//! what is printed, that is compared.
//!
//! What a chapter needs and does not show, and what cannot be run here, stands in comments of the Markdown, which no reader
//! sees: [`book::pages`] says how they are written.

#[path = "book/pages.rs"]
mod pages;
#[path = "book/shell.rs"]
mod shell;
mod support;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use pages::{Page, chapters, root};
use shell::Shell;

/// Follows a page as its reader does, one page at a time: each leaves jobs running that train all the while, beside which
/// those of another page would be slow.
fn follow(page: &str) {
    static READER: Mutex<()> = Mutex::new(());
    let _reader = READER.lock().unwrap_or_else(PoisonError::into_inner);
    let page = Page::read(&root().join(page));
    let mut shell = Shell::new();
    for step in &page.steps {
        shell.take(step, &page);
    }
}

macro_rules! followed {
    ($($name:ident: $page:literal,)*) => {
        $(#[test] fn $name() { follow($page); })*
        const FOLLOWED: &[&str] = &[$($page),*];
    };
}

followed! {
    the_readme_does_what_it_says: "README.md",
    the_start_does_what_it_says: "docs/src/start.md",
    training_your_own_does_what_it_says: "docs/src/your-own.md",
    the_cluster_does_what_it_says: "docs/src/cluster.md",
    launching_does_what_it_says: "docs/src/launching.md",
    the_dashboard_is_where_it_says: "docs/src/dashboard.md",
    elasticity_does_what_it_says: "docs/src/elasticity.md",
    operations_do_what_they_say: "docs/src/operations.md",
    the_runbook_of_faults_does_what_it_says: "docs/src/faults.md",
    metrics_and_logs_do_what_they_say: "docs/src/metrics.md",
    security_does_what_it_says: "docs/src/security.md",
    performance_does_what_it_says: "docs/src/performance.md",
}

#[test]
fn every_chapter_with_a_command_is_followed() {
    for path in chapters() {
        let name = relative(&path);
        let has_commands = Page::read(&path).steps.iter().any(|step| step.is_command());
        assert!(
            !has_commands || FOLLOWED.contains(&name.as_str()),
            "{name} has commands that no test runs"
        );
    }
}

/// Of the book in its summary, and of files and headings wherever Markdown of the project names them.
#[test]
fn every_link_leads_somewhere() {
    let mut from: Vec<PathBuf> = chapters();
    from.push(root().join("docs/src/SUMMARY.md"));
    for page in [
        "README.md",
        "ARCHITECTURE.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
    ] {
        from.push(root().join(page));
    }
    for path in from {
        let page = Page::read(&path);
        for link in &page.links {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = match file {
                "" => path.clone(),
                file => path.parent().expect("a folder").join(file),
            };
            assert!(
                target.exists(),
                "{}: `{link}` leads nowhere",
                relative(&path)
            );
            if !anchor.is_empty() {
                assert!(
                    Page::read(&target).anchors.iter().any(|it| it == anchor),
                    "{}: `{link}` is no heading of {}",
                    relative(&path),
                    relative(&target)
                );
            }
        }
    }
}

#[test]
fn the_summary_has_every_page_of_the_book() {
    fn pages(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => pages(&path, found),
                false if path.extension().is_some_and(|it| it == "md") => found.push(path),
                false => {}
            }
        }
    }
    let mut there = Vec::new();
    pages(&root().join("docs/src"), &mut there);
    there.retain(|path| !path.ends_with("SUMMARY.md"));
    there.sort();
    let mut named = chapters();
    named.sort();
    assert_eq!(there, named);
}

#[test]
fn the_rules_of_the_book_are_the_invariants() {
    let rows = |page: &str| -> Vec<String> {
        let text = std::fs::read_to_string(root().join(page)).unwrap();
        let rows = text.lines().filter_map(|line| {
            let cells: Vec<&str> = line.split('|').map(str::trim).collect();
            let is_number = cells
                .get(1)
                .is_some_and(|it| it.contains('-') && it.ends_with(|it: char| it.is_ascii_digit()));
            (is_number && cells.len() > 3).then(|| format!("{} {}", cells[1], cells[2]))
        });
        rows.collect()
    };
    let known = rows("ARCHITECTURE.md");
    let told = rows("docs/src/elasticity.md");
    assert!(told.len() >= 9, "{told:?}");
    for rule in told {
        assert!(known.contains(&rule), "`{rule}` is none of {known:?}");
    }
}

#[test]
fn every_variable_of_the_program_is_in_the_reference() {
    fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let skipped = ["target", "tests", "benches", ".git"];
            match path.is_dir() {
                true if !skipped.iter().any(|name| path.ends_with(name)) => sources(&path, found),
                false if path.extension().is_some_and(|it| it == "rs") => found.push(path),
                _ => {}
            }
        }
    }
    let mut paths = Vec::new();
    for crates in ["cli", "coordinator", "proto", "shared", "worker"] {
        sources(&root().join(crates), &mut paths);
    }
    let page = std::fs::read_to_string(root().join("docs/src/reference/environment.md")).unwrap();
    let mut seen = 0;
    for path in paths {
        let text = std::fs::read_to_string(&path).unwrap();
        for rest in text.split("\"PERENNIAL_").skip(1) {
            let name: String = rest
                .chars()
                .take_while(|it| it.is_ascii_uppercase() || *it == '_')
                .collect();
            if rest[name.len()..].starts_with('"') && !name.is_empty() && !name.contains("__") {
                seen += 1;
                let found = page.contains(&format!("`PERENNIAL_{name}`"));
                assert!(
                    found,
                    "{}: `PERENNIAL_{name}` is not in the reference",
                    relative(&path)
                );
            }
        }
    }
    assert!(seen > 8, "only {seen} variables are found");
}

fn relative(path: &Path) -> String {
    let path = path.strip_prefix(root()).unwrap_or(path);
    path.to_string_lossy().replace('\\', "/")
}
