//! Runs many seeds, or one with everything that happens.

use std::process::ExitCode;

use perennial_simulation::{Options, simulate, simulate_all};

const USAGE: &str =
    "usage: perennial-simulation --seeds COUNT | --seeds FROM..TO | --seed N [--trace]";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1)
    };
    if let Some(seed) = value("--seed").and_then(|seed| seed.parse().ok()) {
        let options = Options {
            trace: arguments.iter().any(|argument| argument == "--trace"),
            ..Options::default()
        };
        return match simulate(seed, &options) {
            Ok(summary) => {
                print!("{summary}");
                ExitCode::SUCCESS
            }
            Err(failure) => {
                eprintln!("{failure}");
                ExitCode::FAILURE
            }
        };
    }
    let range = value("--seeds").and_then(|range| {
        let (from, to) = range.split_once("..").unwrap_or(("0", range));
        Some(from.parse().ok()?..to.parse().ok()?)
    });
    let Some(seeds) = range else {
        eprintln!("{USAGE}");
        return ExitCode::from(2);
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (summary, failures) = simulate_all(seeds, threads);
    print!("{summary}");
    for failure in &failures {
        eprintln!("{failure}");
    }
    eprintln!("{} failed", failures.len());
    if failures.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
