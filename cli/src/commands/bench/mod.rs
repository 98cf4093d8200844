//! `perennial bench`.

mod checkpoint;
mod collective;
mod index;
mod loader;
mod profile;
mod step;

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::output::Output;

pub use profile::recorder;

/// Times a part of the training on this machine
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    Step(step::Args),
    Loader(loader::Args),
    Checkpoint(checkpoint::Args),
    Collective(collective::Args),
    Index(index::Args),
}

// === impl Command ===

impl Command {
    /// Whether it wants the spans of a profile.
    pub fn is_profiled(&self) -> bool {
        matches!(self, Self::Step(args) if args.is_profiled())
    }
}

/// Of the plant seedlings.
const CLASSES: usize = 12;

pub fn run(command: Command, output: Output) -> anyhow::Result<()> {
    match command {
        Command::Step(args) => step::run(&args, output),
        Command::Loader(args) => loader::run(&args, output),
        Command::Checkpoint(args) => checkpoint::run(args, output),
        Command::Collective(args) => collective::run(&args, output),
        Command::Index(args) => index::run(&args, output),
    }
}

/// All cores, where the user says nothing.
fn threads(asked: Option<u32>) -> usize {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    asked.map_or_else(cores, |threads| threads as usize)
}

/// Times of one thing that was done again and again.
struct Times {
    sorted: Vec<Duration>,
}

// === impl Times ===

impl Times {
    /// # Panics
    /// Without times.
    fn new(mut times: Vec<Duration>) -> Self {
        assert!(!times.is_empty());
        times.sort();
        Self { sorted: times }
    }

    fn median(&self) -> Duration {
        self.sorted[self.sorted.len() / 2]
    }

    fn median_ms(&self) -> f64 {
        milliseconds(self.median())
    }

    /// Median, least and most under names that begin with `name`.
    fn record(&self, name: &str, record: &mut Map<String, Value>) {
        let (least, most) = (self.sorted[0], self.sorted[self.sorted.len() - 1]);
        record.insert(format!("{name}_ms"), json!(self.median_ms()));
        record.insert(format!("{name}_ms_min"), json!(milliseconds(least)));
        record.insert(format!("{name}_ms_max"), json!(milliseconds(most)));
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (least, most) = (self.sorted[0], self.sorted[self.sorted.len() - 1]);
        let (least, most) = (milliseconds(least), milliseconds(most));
        write!(f, "{:.1} ms ({least:.1} to {most:.1})", self.median_ms())
    }
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// Prints the record of a bench: `fields` and `times`.
fn print(
    output: Output,
    fields: Value,
    times: &[(&str, &Times)],
    text: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    let mut record = Map::from_iter([("event".to_string(), json!("bench"))]);
    if let Value::Object(fields) = fields {
        record.extend(fields);
    }
    for (name, times) in times {
        times.record(name, &mut record);
    }
    output.print(&record, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_told_by_their_median_least_and_most() {
        let times = Times::new([5, 1, 30].map(Duration::from_millis).to_vec());
        assert_eq!(times.to_string(), "5.0 ms (1.0 to 30.0)");
        let mut record = Map::new();
        times.record("step", &mut record);
        let expected = json!({"step_ms": 5.0, "step_ms_min": 1.0, "step_ms_max": 30.0});
        assert_eq!(Value::Object(record), expected);
    }
}
