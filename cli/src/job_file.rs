//! The job file as commands that train take it, and what is set over it.

use std::path::{Path, PathBuf};

use crate::settings::Sources;
use crate::shell::CommandLine;

/// What is to be trained, in the words of the command line.
#[derive(Debug, Default, clap::Args)]
pub struct JobFile {
    /// The job file
    #[arg(value_name = "JOB.toml")]
    pub job: PathBuf,
    #[command(flatten)]
    pub over: Overrides,
}

/// What stands above the job file.
#[derive(Debug, Default, clap::Args)]
pub struct Overrides {
    /// The folder of pictures where the workers run, or a pack (a folder or s3://bucket/prefix), in place of
    /// data.dir
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// Whether a picture that cannot be decoded ends the run or is left out and counted, in place of
    /// data.on_bad_image
    #[arg(long, value_name = "WHAT", value_parser = ["fail", "skip"])]
    pub on_bad_image: Option<String>,
    /// Set a key of the job file; may be repeated
    #[arg(long = "set", value_name = "SECTION.KEY=VALUE")]
    pub set: Vec<String>,
}

// === impl JobFile ===

impl JobFile {
    /// Where the job's values come from.
    pub fn sources(&self) -> Sources<'_> {
        self.over.sources(&self.job)
    }
}

// === impl Overrides ===

impl Overrides {
    /// Where the values of the job in this file come from.
    pub fn sources<'a>(&'a self, job: &'a Path) -> Sources<'a> {
        Sources {
            assignments: &self.set,
            data: self.data.as_deref(),
            on_bad_image: self.on_bad_image.as_deref(),
            ..Sources::of_file(job)
        }
    }

    /// Adds them to a command line.
    pub fn spell(&self, line: CommandLine) -> CommandLine {
        let line = line
            .option_if_some("--data", self.data.as_ref().map(|data| data.display()))
            .option_if_some("--on-bad-image", self.on_bad_image.as_deref());
        let sets = self.set.iter();
        sets.fold(line, |line, set| line.option("--set", set))
    }
}
