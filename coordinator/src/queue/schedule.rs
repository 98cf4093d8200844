//! From what each job is to have to what is done about it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::share::{Claim, Share, share};
use super::{Effect, End, How, Queue, QueueEntry, Queued, State};

/// Workers are taken from a job only when others have been due to get them for so long: what comes and goes
/// within a moment moves nobody.
const HOLD: Duration = Duration::from_secs(1);
/// A job that has too few workers to go on keeps them for so long while another one could use them.
const PATIENCE: Duration = Duration::from_secs(30);
/// After a change of coordinators workers come back to their jobs within this time, and nobody is moved
/// before.
const RETURN: Duration = Duration::from_secs(6);

/// A job that runs, as far as this coordinator has to do with it.
#[derive(Debug, Default)]
pub(super) struct Run {
    /// It takes workers.
    pub ready: bool,
    /// How many workers it was told to want; none: as many as it did under the coordinator before.
    pub share: Option<u32>,
    /// Since when it is to have fewer.
    fewer_since: Option<Duration>,
    /// Why it goes back to the queue: it was told to stop.
    returning: Option<String>,
    /// An operator stopped it.
    stopping: bool,
}

// === impl Run ===

impl Run {
    /// One that is no more.
    pub fn over() -> Self {
        Self {
            stopping: true,
            ..Self::default()
        }
    }

    /// Whether it was told to end.
    pub fn is_ending(&self) -> bool {
        self.stopping || self.returning.is_some()
    }

    fn tell(&mut self, workers: u32, job: &str, effects: &mut Vec<Effect>) {
        self.share = Some(workers);
        self.fewer_since = None;
        effects.push(Effect::Share {
            job: job.to_string(),
            workers,
        });
    }
}

impl Queue {
    /// The log has it: the job runs. `inherited`: it did so under the coordinator before, with as many
    /// workers as that one gave it.
    pub(super) fn begin(&mut self, job: &str, inherited: bool) {
        let Some(queued) = self.state.job(job) else {
            return;
        };
        let command = queued.submission.command.clone();
        let least = queued.submission.min_workers;
        let share = (!inherited).then(|| {
            let planned = self.plan().remove(job);
            planned.map_or(least, |share| share.workers().max(least))
        });
        let run = Run {
            share,
            ..Run::default()
        };
        self.runs.insert(job.to_string(), run);
        self.effects.push(Effect::Run {
            job: job.to_string(),
            workers: share,
            command,
        });
    }

    pub(super) fn stop_run(&mut self, job: &str, now: bool) {
        let Some(run) = self.runs.get_mut(job) else {
            return;
        };
        run.stopping = true;
        let job = job.to_string();
        self.effects.push(Effect::Stop { job, now });
    }

    /// A run is over: where the job goes.
    pub(super) fn job_ended(&mut self, job: &str, end: End) {
        let Some(run) = self.runs.get(job) else {
            return;
        };
        let job = job.to_string();
        let entry = match (end, &run.returning) {
            (End::Stopped, Some(reason)) if !run.stopping => QueueEntry::Returned {
                job,
                reason: reason.clone(),
            },
            (End::Stopped, _) => ended(job, How::Stopped, String::new()),
            (End::Finished, _) => ended(job, How::Finished, String::new()),
            (End::Failed(message), _) => ended(job, How::Failed, message),
        };
        self.log.push(entry);
    }

    /// The jobs that run or wait, those that come first in front.
    pub(super) fn in_order(&self) -> Vec<&Queued> {
        let active = |job: &&Queued| match job.state {
            State::Queued => true,
            State::Running => job.stop.is_none(),
            State::Over(_) => false,
        };
        let mut jobs: Vec<&Queued> = self.state.jobs.iter().filter(active).collect();
        jobs.sort_by_key(|job| job.rank());
        jobs
    }

    /// What each job is to have of the workers that are there.
    fn plan(&self) -> BTreeMap<String, Share> {
        let mut pool: BTreeMap<String, u32> = BTreeMap::new();
        let connected = self.workers.values().map(|it| (&it.name, &it.numerics));
        let coming = self.coming.iter().map(|(name, it)| (name, &it.numerics));
        for (name, numerics) in connected.chain(coming) {
            if !self.state.drained.contains(name) {
                *pool.entry(numerics.clone()).or_default() += 1;
            }
        }
        let jobs = self.in_order();
        let claims: Vec<Claim> = (jobs.iter())
            .map(|job| Claim {
                job: &job.submission.job,
                priority: job.submission.priority,
                min: job.submission.min_workers,
                max: job.max_workers(),
                numerics: job.submission.numerics.as_deref(),
            })
            .collect();
        let shares = share(&claims, &pool);
        let names = jobs.iter().map(|job| job.submission.job.clone());
        names.zip(shares).collect()
    }

    /// Lets jobs begin, tells them how many workers they want, and hands out those that wait.
    pub(super) fn schedule(&mut self) {
        let plan = self.plan();
        let order: Vec<(String, State)> = (self.in_order().iter())
            .map(|job| (job.submission.job.clone(), job.state))
            .collect();
        self.reasons.clear();
        for (place, (job, state)) in order.iter().enumerate() {
            match (state, &plan[job]) {
                (State::Queued, Share::Runs { .. }) if self.is_settling() => {
                    let reason = "workers may still come back to the jobs that ran".to_string();
                    self.reasons.insert(job.clone(), reason);
                }
                (State::Queued, Share::Runs { numerics, .. }) => {
                    let entry = QueueEntry::Started {
                        job: job.clone(),
                        numerics: numerics.clone(),
                    };
                    // What follows is decided once it runs.
                    return self.log.push(entry);
                }
                (State::Queued, Share::Waits(reason)) => {
                    self.reasons.insert(job.clone(), reason.clone());
                }
                (_, Share::Runs { workers, .. }) => self.tell(job, *workers),
                (_, Share::Waits(_)) => {
                    let mut before = order[..place].iter();
                    let first = before.find(|(other, _)| plan[other].workers() > 0);
                    let mut after = order[place + 1..].iter();
                    let poorer = after
                        .find(|(other, _)| plan[other].workers() as usize > self.assigned(other));
                    match (first, poorer) {
                        (Some((first, _)), _) => {
                            self.send_back(job, format!("job `{first}` comes first"), HOLD);
                        }
                        (None, Some((other, _))) if self.assigned(job) > 0 => {
                            let reason = format!(
                                "it has too few workers to go on, and job `{other}` can use them"
                            );
                            self.send_back(job, reason, PATIENCE);
                        }
                        _ => self.keep(job),
                    }
                }
            }
        }
        let jobs: Vec<String> = order.into_iter().map(|(job, _)| job).collect();
        self.hand_out(&jobs);
    }

    /// Whether it is too early to take workers from anybody.
    fn is_settling(&self) -> bool {
        self.inherited && self.now - self.claimed_at < RETURN
    }

    fn tell(&mut self, job: &str, workers: u32) {
        let (settling, now) = (self.is_settling(), self.now);
        let Some(run) = self.runs.get_mut(job).filter(|run| !run.is_ending()) else {
            return;
        };
        match run.share {
            Some(share) if share == workers => run.fewer_since = None,
            Some(share) if share > workers || settling => {
                let since = *run.fewer_since.get_or_insert(now);
                if settling || now - since < HOLD {
                    return;
                }
                run.tell(workers, job, &mut self.effects);
            }
            None if settling => {}
            _ => run.tell(workers, job, &mut self.effects),
        }
    }

    /// The job waits again, with a checkpoint, once it has been due to for so long.
    fn send_back(&mut self, job: &str, reason: String, hold: Duration) {
        let (settling, now) = (self.is_settling(), self.now);
        let Some(run) = self.runs.get_mut(job).filter(|run| !run.is_ending()) else {
            return;
        };
        let since = *run.fewer_since.get_or_insert(now);
        if settling || now - since < hold {
            return;
        }
        run.returning = Some(reason);
        let job = job.to_string();
        self.effects.push(Effect::Stop { job, now: false });
    }

    fn keep(&mut self, job: &str) {
        if let Some(run) = self.runs.get_mut(job) {
            run.fewer_since = None;
        }
    }

    /// Workers that wait go to the jobs that have fewer than they want.
    fn hand_out(&mut self, jobs: &[String]) {
        for job in jobs {
            let Some(run) = self
                .runs
                .get(job)
                .filter(|run| run.ready && !run.is_ending())
            else {
                continue;
            };
            let Some(share) = run.share else {
                continue;
            };
            let numerics = (self.state.job(job)).and_then(|job| job.submission.numerics.clone());
            let lacks = (share as usize).saturating_sub(self.assigned(job));
            let fits = |worker: &super::Worker| {
                worker.job.is_none()
                    && numerics.as_ref().is_none_or(|own| *own == worker.numerics)
                    && !self.state.drained.contains(&worker.name)
                    && !self.is_shunned(&worker.name, job)
            };
            let chosen: Vec<_> = (self.workers.iter())
                .filter(|(_, worker)| fits(worker))
                .map(|(connection, worker)| (*connection, worker.name.clone()))
                .take(lacks)
                .collect();
            for (connection, worker) in chosen {
                if let Some(chosen) = self.workers.get_mut(&connection) {
                    chosen.job = Some(job.clone());
                }
                self.effects.push(Effect::Hand {
                    connection,
                    job: job.clone(),
                    worker,
                });
            }
        }
    }
}

fn ended(job: String, how: How, message: String) -> QueueEntry {
    QueueEntry::Ended { job, how, message }
}
