//! `perennial completions` and `perennial man`.

use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;
use clap_complete::Shell;
use clap_complete::env::{CompleteEnv, Shells};

use crate::args::Cli;
use crate::{output, reference};

/// Print the completions of a shell, for it to read at its start: `eval "$(perennial completions bash)"`
///
/// Names of jobs and workers are those of the store that the line names, or of perennial-store.
#[derive(Debug, clap::Args)]
pub struct CompletionsArgs {
    #[arg(value_enum)]
    shell: Shell,
}

const NAME: &str = "perennial";
/// The variable in which the scripts of [`completions`] say which shell asks.
const ASKED: &str = "PERENNIAL_COMPLETE";

/// Write the manual pages, one for each command
#[derive(Debug, clap::Args)]
pub struct ManArgs {
    /// The folder for them, such as ~/.local/share/man/man1; made if it is not there
    #[arg(value_name = "DIR")]
    dir: PathBuf,
    /// Write the reference of the book instead: its pages of commands, of the job file's keys and of metrics
    #[arg(long)]
    markdown: bool,
}

pub fn completions(args: &CompletionsArgs) -> anyhow::Result<()> {
    let shells = Shells::builtins();
    let shell = shells.completer(&args.shell.to_string());
    let shell = shell.with_context(|| format!("shell `{}` has no completions", args.shell))?;
    let mut script = Vec::new();
    shell.write_registration(ASKED, NAME, NAME, NAME, &mut script)?;
    output::line(String::from_utf8(script)?.trim())
}

/// Answers a shell that asks how a line may go on, and ends the program then.
pub fn complete() {
    CompleteEnv::with_factory(Cli::command)
        .var(ASKED)
        .complete();
}

pub fn man(args: &ManArgs) -> anyhow::Result<()> {
    let dir = &args.dir;
    let write = || {
        if args.markdown {
            return reference::write(dir);
        }
        std::fs::create_dir_all(dir)?;
        clap_mangen::generate_to(Cli::command(), dir)
    };
    write().with_context(|| format!("cannot write manual pages to {}", dir.display()))
}
