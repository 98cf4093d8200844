//! `perennial top`: all jobs and workers, again and again.

use std::io::IsTerminal;
use std::time::Duration;

use serde_json::json;

use super::queue::{self, Queue};
use super::status::{overview, standings};
use crate::exit::Interrupted;
use crate::job::{At, block_on};
use crate::output::{Output, counted};
use crate::run::Signals;

/// Watch jobs and workers live; ctrl-c ends it
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    at: At,
    /// How many seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = clap::value_parser!(u64).range(1..))]
    every: u64,
    /// How many looks; without end where it is left out
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// Puts the cursor into the upper left corner and clears what is below.
const CLEAR: &str = "\x1b[H\x1b[J";
/// Lines of jobs and of workers that are shown.
const MOST: usize = 20;

pub fn run(args: &Args, output: Output) -> anyhow::Result<()> {
    block_on(async {
        let store = args.at.open_store().await?;
        let mut signals = Signals::new()?;
        let mut pause = tokio::time::interval(Duration::from_secs(args.every));
        let mut looks = 0;
        while args.count.is_none_or(|count| looks < count) {
            tokio::select! {
                _ = pause.tick() => {}
                () = signals.next() => return Err(Interrupted.into()),
            }
            let queue = Queue::look(&store, &args.at).await?;
            look(&store, &queue, output).await?;
            looks += 1;
        }
        Ok(())
    })
}

async fn look(store: &perennial_store::Store, queue: &Queue, output: Output) -> anyhow::Result<()> {
    let most = (!output.json).then_some(MOST);
    let (jobs, left_out) = standings(store, queue, most).await?;
    let told = queue.told.as_ref().ok();
    let value = json!({ "jobs": jobs, "queue": told.map(queue::as_json) });
    output.print(&value, || {
        let mut text = overview(&jobs);
        if left_out > 0 {
            let left_out = counted(left_out as u64, "more job");
            text += &format!("... and {left_out}; `perennial status --all` shows them\n");
        }
        text += &queue.text();
        if let Some(told) = told {
            text += &format!("\n{}", queue::workers(&told.workers, MOST));
        }
        match std::io::stdout().is_terminal() {
            true => format!("{CLEAR}{text}"),
            false => text,
        }
    })
}
