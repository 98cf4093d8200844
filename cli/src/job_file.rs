//! The job file as commands that train take it, and what is set over it.

use std::path::PathBuf;

use crate::settings::Sources;

/// What is to be trained, in the words of the command line.
#[derive(Debug, Default, clap::Args)]
pub struct JobFile {
    /// The job file
    #[arg(value_name = "JOB.toml")]
    pub job: PathBuf,
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
        Sources {
            assignments: &self.set,
            data: self.data.as_deref(),
            on_bad_image: self.on_bad_image.as_deref(),
            ..Sources::of_file(&self.job)
        }
    }
}
