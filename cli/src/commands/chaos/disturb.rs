//! A run under faults, from its first step to its end.

use std::fs;
use std::iter::Peekable;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail};
use perennial_coordinator::JobEvent;
use perennial_store::FaultCounts;

use super::cluster::Cluster;
use super::plan::{Fault, Planned};
use super::process::Uid;
use super::seen::{Seen, Strike};

/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(20);
/// How long a worker that was lost stays out before it may come back.
const OUT: Duration = Duration::from_secs(1);
/// A worker that is still not missed after this time never will be.
const UNNOTICED: Duration = Duration::from_secs(30);
/// A process that was killed is started again after this time.
const RETURN: Duration = Duration::from_secs(1);
/// How long the store fails; longer, up to the most, while no request came.
const STORE_FAILS: Duration = Duration::from_secs(4);
const STORE_FAILS_AT_MOST: Duration = Duration::from_secs(15);
/// A fault that struck later could not be recovered from before the job's end.
const LAST_STRIKE: Duration = Duration::from_secs(15);
/// A run in which nothing is committed for so long is stuck.
const STUCK: Duration = Duration::from_secs(120);

/// The two files by which the store's faults are ruled.
#[derive(Debug)]
pub struct StoreFaults {
    /// Requests fail while it is there.
    pub switch: PathBuf,
    /// Has a line for each one that failed.
    pub counts: PathBuf,
}

/// A run in which faults strike.
pub struct Drama<'c, 'r, P: Iterator<Item = Planned>> {
    pub cluster: &'c mut Cluster<'r>,
    pub plan: Peekable<P>,
    /// All faults of the plan must happen, even where the job is nearly over.
    pub to_the_last: bool,
    pub step_seconds: f64,
    pub store: StoreFaults,
    pub strikes: Vec<Strike>,
    /// When the first step was committed, and the last one.
    first: Option<Duration>,
    last: Duration,
    /// Steps that are left.
    remaining: u64,
    /// The last thing that was heard was a step.
    at_work: bool,
    /// When workers are to be started, and coordinators in which places.
    starts: Vec<(Duration, Option<usize>)>,
}

impl<'c, 'r, P: Iterator<Item = Planned>> Drama<'c, 'r, P> {
    pub fn new(
        cluster: &'c mut Cluster<'r>,
        plan: P,
        to_the_last: bool,
        step_seconds: f64,
        store: StoreFaults,
    ) -> Self {
        Self {
            cluster,
            plan: plan.peekable(),
            to_the_last,
            step_seconds,
            store,
            strikes: Vec::new(),
            first: None,
            last: Duration::ZERO,
            remaining: u64::MAX,
            at_work: false,
            starts: Vec::new(),
        }
    }

    /// Plays the run to its end. `show` gets each strike once it is over and dealt with.
    pub async fn play(&mut self, mut show: impl FnMut(&Strike, &[Seen])) -> anyhow::Result<()> {
        let mut ticks = tokio::time::interval(TICK);
        loop {
            tokio::select! {
                biased;
                told = self.cluster.told() => {
                    let seen = self.cluster.take(told).await?;
                    match &seen.event {
                        JobEvent::Step { global_step, total_steps, .. } => {
                            self.first.get_or_insert(seen.at);
                            self.last = seen.at;
                            self.remaining = total_steps - global_step;
                            self.at_work = true;
                        }
                        JobEvent::Started { .. } | JobEvent::WorkerLost { .. } => self.at_work = false,
                        JobEvent::Finished { .. } => break,
                        _ => {}
                    }
                }
                _ = ticks.tick() => {
                    if self.cluster.look_for_ends()? {
                        break;
                    }
                    self.keep_up_the_number().await?;
                    for index in 0..self.strikes.len() {
                        self.go_on(index).await?;
                    }
                    self.show_what_is_dealt_with(&mut show);
                    self.strike_if_due().await?;
                    self.is_it_stuck()?;
                }
            }
        }
        let _ = fs::remove_file(&self.store.switch);
        for index in 0..self.strikes.len() {
            self.settle(index);
        }
        Ok(())
    }

    fn show_what_is_dealt_with(&mut self, show: &mut impl FnMut(&Strike, &[Seen])) {
        let seen = &self.cluster.seen;
        for strike in self.strikes.iter_mut().filter(|strike| !strike.is_shown) {
            if strike.over.is_some() && strike.recovered(seen).is_some() {
                strike.is_shown = true;
                show(strike, seen);
            }
        }
    }

    fn is_it_stuck(&self) -> anyhow::Result<()> {
        if self.cluster.now() - self.last > STUCK {
            let words = self.cluster.last_words();
            let seconds = STUCK.as_secs();
            bail!("no step was committed for {seconds} s; the last words of all: {words}");
        }
        Ok(())
    }

    /// Starts processes in place of those that were killed or ended.
    async fn keep_up_the_number(&mut self) -> anyhow::Result<()> {
        let now = self.cluster.now();
        let due = self.starts.extract_if(.., |(at, _)| *at <= now);
        for (_, place) in due.collect::<Vec<_>>() {
            match place {
                Some(place) => self.cluster.start_standby(place)?,
                None => self.cluster.start_worker().await?,
            }
        }
        let coming = self.starts.iter().filter(|(_, place)| place.is_none());
        let there = self.cluster.workers.len() + coming.count();
        for _ in there..self.cluster.wanted() {
            self.starts.push((now + RETURN, None));
        }
        Ok(())
    }

    // --- striking -----------------------------------------------------------------------------------

    async fn strike_if_due(&mut self) -> anyhow::Result<()> {
        let (Some(first), Some(next)) = (self.first, self.plan.peek().copied()) else {
            return Ok(());
        };
        let left = Duration::from_secs_f64(self.remaining as f64 * self.step_seconds);
        if self.cluster.now() < first + next.at || (!self.to_the_last && left < LAST_STRIKE) {
            return Ok(());
        }
        if self.strike(next).await? {
            self.plan.next();
        }
        Ok(())
    }

    /// Whether there was anything to strike.
    async fn strike(&mut self, planned: Planned) -> anyhow::Result<bool> {
        let fault = planned.fault;
        let victim = match fault {
            Fault::Store => Some(0),
            Fault::Coordinator => self.cluster.replaceable_coordinator(),
            Fault::Kill | Fault::Stop | Fault::Partition => self.somebody(planned.which),
        };
        let Some(victim) = victim.filter(|_| self.at_work) else {
            return Ok(false);
        };
        let at = self.cluster.now();
        let failed_requests = match fault {
            Fault::Store => self.failed_requests()?,
            _ => 0,
        };
        let mut strike = Strike {
            fault,
            at,
            victim,
            over: None,
            happened: false,
            failed_requests,
            is_shown: false,
        };
        self.at_work &= fault == Fault::Store;
        match fault {
            Fault::Kill => {
                strike.happened = self.cluster.kill_worker(victim).await;
                strike.over = Some(at);
                self.starts.push((at + RETURN, None));
            }
            Fault::Stop => self.cluster.take_out(victim, true).await?,
            Fault::Partition => self.cluster.take_out(victim, false).await?,
            Fault::Coordinator => {
                let place = self.cluster.kill_coordinator(victim).await;
                strike.happened = place.is_some();
                strike.over = Some(at);
                self.starts
                    .extend(place.map(|place| (at + RETURN, Some(place))));
            }
            Fault::Store => fs::write(&self.store.switch, "")
                .with_context(|| format!("cannot write `{}`", self.store.switch.display()))?,
        }
        self.strikes.push(strike);
        Ok(true)
    }

    /// A member, where another one is left to go on.
    fn somebody(&self, which: u64) -> Option<Uid> {
        let members = self.cluster.sound_members();
        let index = which % (members.len() as u64).max(1);
        (members.len() >= 2).then(|| members[index as usize])
    }

    /// Ends what is to pass.
    async fn go_on(&mut self, index: usize) -> anyhow::Result<()> {
        let strike = &self.strikes[index];
        let (victim, since) = (strike.victim, self.cluster.now() - strike.at);
        if strike.over.is_some() {
            return Ok(());
        }
        match strike.fault {
            Fault::Kill | Fault::Coordinator => return Ok(()),
            Fault::Stop | Fault::Partition => {
                let detected = strike.detected(&self.cluster.seen);
                if detected.map_or(since < UNNOTICED, |detected| since < detected + OUT) {
                    return Ok(());
                }
                let stopped = strike.fault == Fault::Stop;
                self.cluster.bring_back(victim, stopped).await?;
            }
            Fault::Store => {
                let failed = self.failed_requests()? > strike.failed_requests;
                if since < STORE_FAILS || (!failed && since < STORE_FAILS_AT_MOST) {
                    return Ok(());
                }
                let _ = fs::remove_file(&self.store.switch);
            }
        }
        self.settle(index);
        Ok(())
    }

    /// Sees whether a strike that passes did what it was to do.
    fn settle(&mut self, index: usize) {
        let now = self.cluster.now();
        let failed = self.failed_requests().unwrap_or_default();
        let strike = &mut self.strikes[index];
        if strike.over.is_some() {
            return;
        }
        strike.over = Some(now);
        if strike.fault == Fault::Store {
            strike.failed_requests = failed - strike.failed_requests;
            strike.happened = strike.failed_requests > 0;
        } else {
            strike.happened = strike.detected(&self.cluster.seen).is_some();
        }
    }

    /// Of all processes, since the run's beginning.
    fn failed_requests(&self) -> anyhow::Result<u64> {
        let counts = FaultCounts::read_file(&self.store.counts)
            .with_context(|| format!("cannot read `{}`", self.store.counts.display()))?;
        Ok(counts.values().sum())
    }
}
