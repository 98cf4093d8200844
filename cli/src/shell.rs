//! Commands as somebody would type them.

use std::fmt::Write;

/// A command line, built word by word.
#[derive(Debug, Clone)]
pub struct CommandLine(String);

// === impl CommandLine ===

impl CommandLine {
    /// Starts with `program` and its subcommand.
    pub fn new(program: &str, subcommand: &str) -> Self {
        Self(format!("{} {subcommand}", quoted(program)))
    }

    pub fn word(mut self, word: impl AsRef<str>) -> Self {
        let _ = write!(self.0, " {}", quoted(word.as_ref()));
        self
    }

    /// `--name value`.
    pub fn option(self, name: &str, value: impl ToString) -> Self {
        self.word(name).word(value.to_string())
    }

    pub fn option_if_some(self, name: &str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.option(name, value),
            None => self,
        }
    }

    /// Sets variables of the environment for the command.
    pub fn with_environment(self, variables: &[(String, String)]) -> Self {
        let mut line = String::new();
        for (name, value) in variables {
            let _ = write!(line, "{name}={} ", quoted(value));
        }
        Self(line + &self.0)
    }

    pub fn into_string(self) -> String {
        self.0
    }
}

/// The program as it was called, so that the line works where this one did.
pub fn this_program() -> String {
    std::env::args()
        .next()
        .filter(|program| program.contains(std::path::MAIN_SEPARATOR))
        .unwrap_or_else(|| "perennial".to_string())
}

/// `word` as a POSIX shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_string()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_survives_the_shell() {
        let line = CommandLine::new("perennial", "train")
            .word("my job.toml")
            .option("--set", "name=it's")
            .option_if_some("--workers", Some(2))
            .option_if_some("--data", None::<String>)
            .with_environment(&[("PERENNIAL_SEED".into(), "7".into())]);
        assert_eq!(
            line.into_string(),
            r"PERENNIAL_SEED=7 perennial train 'my job.toml' --set 'name=it'\''s' --workers 2"
        );
    }
}
