//! One coordinator with a thousand members over gRPC on this machine: how long they take to come together,
//! to hear of a change, and what that costs the coordinator's process.
//!
//! `cargo bench -p perennial-coordinator --bench control_plane [-- MEMBERS]`
//!
//! The coordinator is the real one, in a process of its own, with its log in a folder. The members are
//! real sessions on one runtime; their training is made up. Prints a table; fails when a member was not
//! reached at all, whatever the times.

mod members;
mod process;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use members::Members;
use process::Coordinator;

const MEMBERS: usize = 1000;
/// How often one member leaves and another one comes.
const CHANGES: usize = 5;
/// How long the job runs with nothing but steps.
const STEADY: Duration = Duration::from_secs(20);

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let mut members = MEMBERS;
    while let Some(argument) = arguments.next() {
        if argument == process::SERVE {
            return process::serve(arguments);
        }
        // `cargo bench` adds `--bench`.
        members = argument.parse().unwrap_or(members);
    }
    let runtime = tokio::runtime::Runtime::new().expect("threads can be started");
    match runtime.block_on(measure(members)) {
        Ok(table) => {
            print!("{table}");
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("control_plane: {why}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(count: usize) -> Result<String, String> {
    let folder = tempfile::tempdir().map_err(|error| error.to_string())?;
    let coordinator = Coordinator::start(folder.path(), count).await?;
    let mut members = Members::new(&coordinator.address);

    let began = Instant::now();
    members.add(count);
    let storm = members.all_started(count).await? - began;

    let (cpu, steps, since) = (coordinator.cpu()?, members.steps(), Instant::now());
    tokio::time::sleep(STEADY).await;
    let seconds = since.elapsed().as_secs_f64();
    let steady_cpu = (coordinator.cpu()? - cpu) / seconds;
    let steady_messages = (members.steps() - steps) as f64 / seconds;

    let (mut halts, mut leaves, mut joins) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..CHANGES {
        let left = members.remove_one();
        halts.push(members.all_told_to_halt(count - 1).await? - left);
        leaves.push(members.all_started(count - 1).await? - left);
        members.add(1);
        let halted = members.all_halted_for_a_newcomer(count - 1).await?;
        joins.push(members.all_started(count).await? - halted);
    }
    let memory = coordinator.peak_memory()? as f64 / 1e6;
    members.check()?;

    let mut table = format!(
        "one coordinator, {count} members, gRPC over loopback\n\n{:<58}{:>12}{:>12}{:>10}\n",
        "", "median", "slowest", "bar"
    );
    let mut line = |what: &str, median: String, slowest: String, bar: &str| {
        table.push_str(&format!("{what:<58}{median:>12}{slowest:>12}{bar:>10}\n"));
    };
    let seconds = |time: Duration| format!("{:.2} s", time.as_secs_f64());
    line(
        "join storm: first hello to the last start",
        seconds(storm),
        String::new(),
        "10 s",
    );
    for (what, mut times, bar) in [
        (
            "a member is gone: until all others are told to halt",
            halts,
            "",
        ),
        (
            "a member is gone: until all others have started again",
            leaves,
            "1 s",
        ),
        (
            "a newcomer has caught up: halted to all started",
            joins,
            "1 s",
        ),
    ] {
        times.sort();
        let slowest = times[times.len() - 1];
        line(what, seconds(times[times.len() / 2]), seconds(slowest), bar);
    }
    line(
        &format!("processor, at {steady_messages:.0} reported steps a second"),
        format!("{:.0} %", 100.0 * steady_cpu),
        String::new(),
        "",
    );
    line(
        "the coordinator's memory at its peak",
        String::new(),
        format!("{memory:.0} MB"),
        "500 MB",
    );
    Ok(table)
}
