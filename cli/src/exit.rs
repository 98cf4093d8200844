//! How the program ends: its exit status and its last sentence.

use std::io::IsTerminal;
use std::process::ExitCode;

use crate::settings::SettingsError;

/// Ended by ctrl-c or SIGTERM, after what the run said itself: exit status 130 and no further word.
#[derive(Debug, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

pub const FAILED: u8 = 1;
pub const USAGE: u8 = 2;
/// 128 and SIGINT's number, as shells count.
pub const INTERRUPTED: u8 = 130;

/// What a parser of numbers says of a wrong one, and the same for people.
const NUMBERS: [(&str, &str); 4] = [
    ("invalid digit found in string", "it must be a whole number"),
    (
        "cannot parse integer from empty string",
        "it must be a whole number",
    ),
    ("number too large to fit in target type", "it is too large"),
    ("invalid float literal", "it must be a number"),
];

/// Ends the program for whoever called it in a wrong way, or asked for help.
pub fn refuse(error: &clap::Error) -> ! {
    if !error.use_stderr() {
        error.exit();
    }
    let text = error.render();
    let text = match std::io::stderr().is_terminal() {
        true => text.ansi().to_string(),
        false => text.to_string(),
    };
    let text = NUMBERS
        .into_iter()
        .fold(text, |text, (said, meant)| text.replace(said, meant));
    eprint!("{text}");
    std::process::exit(error.exit_code());
}

/// Tells an error on stderr as one sentence and picks the exit status.
pub fn conclude(result: anyhow::Result<()>) -> ExitCode {
    let Err(error) = result else {
        return ExitCode::SUCCESS;
    };
    if error.is::<Interrupted>() {
        return ExitCode::from(INTERRUPTED);
    }
    if is_broken_pipe(&error) {
        return ExitCode::SUCCESS;
    }
    eprintln!("error: {}", sentence(&error));
    ExitCode::from(if error.is::<SettingsError>() {
        USAGE
    } else {
        FAILED
    })
}

/// The error and its causes in one line. A cause that the sentence holds already is not told again.
fn sentence(error: &anyhow::Error) -> String {
    let mut sentence = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        let cause: Vec<&str> = cause.lines().map(str::trim).collect();
        let cause = cause.join(" ");
        if sentence.is_empty() {
            sentence = cause;
        } else if !sentence.contains(&cause) {
            sentence = format!("{sentence}: {cause}");
        }
    }
    sentence
}

/// Whoever read our output has seen enough.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use anyhow::anyhow;

    use super::*;

    #[test]
    fn an_error_is_one_line_that_tells_each_cause_once() {
        let error = anyhow!("permission denied\n  (os error 13)")
            .context("cannot read `x`")
            .context("cannot start");
        assert_eq!(
            sentence(&error),
            "cannot start: cannot read `x`: permission denied (os error 13)"
        );
        let error = anyhow!("disk full").context("cannot write `y`: disk full");
        assert_eq!(sentence(&error), "cannot write `y`: disk full");
    }
}
