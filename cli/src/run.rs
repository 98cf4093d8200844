//! Running a job: the coordinator in this process, worker processes beside it where they are asked
//! for, and ctrl-c.

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use perennial_coordinator::{
    JobEvent, Outcome, QueueConfig, ServeConfig, reachable, serve, serve_queue,
};
use perennial_worker::ComputeDevice;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::events::QueueViewer;
use crate::exit::Interrupted;
use crate::fleet::{Exit, Fleet};
use crate::output::Output;

/// How long the coordinator may take to notice that a worker process has ended.
const UNNOTICED: Duration = Duration::from_secs(5);
/// So many crashes of workers within this time are made good; more say that something is wrong.
const CRASHES: usize = 10;
const CRASHES_WITHIN: Duration = Duration::from_secs(60);
/// How long workers may take to end after the run.
const WIND_UP: Duration = Duration::from_secs(5);

/// Worker processes to start on this machine.
#[derive(Debug, Clone, Copy)]
pub struct LocalWorkers {
    pub count: u32,
    /// Of each.
    pub threads: usize,
    pub device: ComputeDevice,
}

/// Runs a job to its end and shows what happens. A run that was stopped is [`Interrupted`].
pub async fn run(
    config: ServeConfig,
    workers: Option<LocalWorkers>,
    mut show: impl FnMut(&JobEvent),
) -> anyhow::Result<()> {
    let (bound, mut address) = oneshot::channel();
    let (stop, stopping) = watch::channel(false);
    let (sender, mut events) = mpsc::unbounded_channel();
    let mut serving = pin!(serve(config, bound, sender, stopping));
    let mut signals = Signals::new()?;
    let mut fleet: Option<Fleet> = None;
    let mut wanted = workers.map_or(0, |workers| workers.count);
    let mut crashes = Crashes::default();
    let mut unnoticed: Option<(Instant, Exit)> = None;
    let mut waits_for_address = true;

    let outcome = loop {
        let deadline = unnoticed.as_ref().map(|(deadline, _)| *deadline);
        tokio::select! {
            biased;
            Some(event) = events.recv() => {
                show(&event);
                if let (JobEvent::Scaled { wanted: number }, Some(fleet)) = (&event, &mut fleet) {
                    wanted = *number;
                    fleet.fill_up(wanted)?;
                }
            }
            outcome = &mut serving => break outcome,
            listening = &mut address, if waits_for_address => {
                waits_for_address = false;
                if let (Ok(address), Some(workers)) = (listening, workers) {
                    fleet
                        .insert(Fleet::new(url(address), workers))
                        .fill_up(workers.count)?;
                }
            }
            () = signals.next() => {
                if *stop.borrow() {
                    return Err(Interrupted.into());
                }
                show(&JobEvent::Warning {
                    message: "stopping after this step; once more ends at once".to_string(),
                });
                let _ = stop.send(true);
            }
            exit = next_exit(&mut fleet) => {
                let Some(fleet) = &mut fleet else { continue };
                if exit.is_crash() && !*stop.borrow() && crashes.may_restart() {
                    eprint!("{}", exit.last_words());
                    fleet.fill_up(wanted)?;
                } else if !exit.status.success() && fleet.is_empty() && unnoticed.is_none() {
                    unnoticed = Some((Instant::now() + UNNOTICED, exit));
                }
            }
            () = until(deadline) => break Ok(Outcome::Failed { message: String::new() }),
        }
    };
    while let Ok(event) = events.try_recv() {
        show(&event);
    }
    // After its end the coordinator's streams are closed, and workers follow.
    let patience = match &outcome {
        Ok(Outcome::Failed { message }) if message.is_empty() => Duration::ZERO,
        _ => WIND_UP,
    };
    let mut exits: Vec<Exit> = unnoticed.into_iter().map(|(_, exit)| exit).collect();
    if let Some(fleet) = &mut fleet {
        exits.extend(fleet.wind_up(patience).await);
    }
    conclude(outcome?, &exits)
}

/// Serves a queue until ctrl-c or SIGTERM, which leaves its jobs as they are, and shows what happens.
pub async fn run_queue(config: QueueConfig, output: Output) -> anyhow::Result<()> {
    let (bound, mut address) = oneshot::channel();
    let (stop, stopping) = watch::channel(false);
    let (sender, mut events) = mpsc::unbounded_channel();
    let mut viewer = QueueViewer::new(output);
    let mut serving = pin!(serve_queue(config, bound, sender, stopping));
    let mut signals = Signals::new()?;
    let mut waits_for_address = true;
    let outcome = loop {
        tokio::select! {
            biased;
            Some(event) = events.recv() => viewer.show(&event),
            outcome = &mut serving => break outcome,
            listening = &mut address, if waits_for_address => {
                waits_for_address = false;
                if let Ok(address) = listening {
                    viewer.listens(address);
                }
            }
            () = signals.next() => {
                if *stop.borrow() {
                    return Err(Interrupted.into());
                }
                let _ = stop.send(true);
            }
        }
    };
    while let Ok(event) = events.try_recv() {
        viewer.show(&event);
    }
    Ok(outcome?)
}

/// The next worker that ends; waits forever where there is none.
async fn next_exit(fleet: &mut Option<Fleet>) -> Exit {
    match fleet {
        Some(fleet) => fleet.next_exit().await,
        None => std::future::pending().await,
    }
}

/// Worker processes that crashed of late: one is started in place of each, but not again and again.
#[derive(Debug, Default)]
struct Crashes(Vec<Instant>);

// === impl Crashes ===

impl Crashes {
    fn may_restart(&mut self) -> bool {
        self.0.retain(|at| at.elapsed() < CRASHES_WITHIN);
        self.0.push(Instant::now());
        self.0.len() <= CRASHES
    }
}

fn conclude(outcome: Outcome, exits: &[Exit]) -> anyhow::Result<()> {
    let message = match outcome {
        Outcome::Finished { .. } => return Ok(()),
        Outcome::Stopped { .. } => return Err(Interrupted.into()),
        Outcome::Failed { message } | Outcome::Deposed { message } => message,
    };
    for exit in exits.iter().filter(|exit| exit.is_crash()) {
        eprint!("{}", exit.last_words());
    }
    match (message.as_str(), exits.first()) {
        ("", Some(exit)) => {
            let words = exit.stderr.last().cloned().unwrap_or_default();
            let words = words.trim_start_matches("error: ").to_string();
            let gone = format!("worker process {} ended with {}", exit.number, exit.status);
            if words.is_empty() {
                bail!(gone);
            }
            Err(anyhow!(words).context(gone))
        }
        _ => bail!(message),
    }
}

/// Where workers on this machine reach a coordinator that listens at `address`.
fn url(address: SocketAddr) -> String {
    format!("http://{}", reachable(address))
}

/// Waits until `deadline`, forever without one.
async fn until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Ctrl-c and SIGTERM.
pub struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

// === impl Signals ===

#[cfg(unix)]
impl Signals {
    pub fn new() -> anyhow::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let on = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self {
            terminate: on(SignalKind::terminate())?,
            interrupt: on(SignalKind::interrupt())?,
        })
    }

    pub async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
impl Signals {
    pub fn new() -> anyhow::Result<Self> {
        Ok(Self {})
    }

    pub async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
