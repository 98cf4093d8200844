//! The reference of the book, made from what the program does: its commands, the keys of a job file, its metrics.

mod commands;
mod job_file;
mod metrics;

use std::path::Path;

/// The pages with their file names, as Markdown.
pub fn pages() -> [(&'static str, String); 3] {
    [
        ("commands.md", commands::page()),
        ("job-file.md", job_file::page()),
        ("metrics.md", metrics::page()),
    ]
}

/// Writes the pages into a folder, which is made if it is not there.
pub fn write(dir: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(dir)?;
    for (name, text) in pages() {
        std::fs::write(dir.join(name), text)?;
    }
    Ok(())
}

/// What stands above each page.
fn made_from(what: &str) -> String {
    format!(
        "<!-- Made from {what}. Change that, and write this page again with `perennial man --markdown docs/src/reference`. -->\n"
    )
}

/// Text for a cell of a table.
fn cell(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ").replace('|', "\\|").replace('<', "&lt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_in_the_book_is_what_the_program_does() {
        let book = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/src/reference");
        for (name, text) in pages() {
            let there = std::fs::read_to_string(book.join(name)).unwrap_or_default();
            let differs = there
                .lines()
                .zip(text.lines())
                .find(|(there, here)| there != here);
            assert!(
                there == text,
                "docs/src/reference/{name} is not what the program does, first in {differs:?}: \
                 `cargo run --release -- man --markdown docs/src/reference` writes it again"
            );
        }
    }
}
