//! The workers: those that wait, and whose the others are.

use std::time::Duration;

use perennial_proto::rules::{HEARTBEAT, LEASE, OWN_PAUSE, worker_kind};
use perennial_proto::v1::Hello;

use super::schedule::Run;
use super::{Effect, Phase, Queue};
use crate::machine::ConnectionId;
use crate::replay::number;

/// How long a worker that a job did not keep is not handed to it again the first time; twice as long each
/// further time.
const SHUNNED: Duration = Duration::from_secs(10);
const SHUNNED_AT_MOST: Duration = Duration::from_secs(600);
/// A worker that a job has let go counts as there for so long: it finishes what it writes, and comes.
const ON_ITS_WAY: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Worker {
    pub name: String,
    pub numerics: String,
    pub threads: u32,
    /// None: it waits.
    pub job: Option<String>,
    last_heard: Duration,
    last_sent: Duration,
}

/// A worker between a job that has let it go and the pool.
#[derive(Debug)]
pub(super) struct Coming {
    pub numerics: String,
    until: Duration,
}

#[derive(Debug)]
pub(super) struct Shunned {
    until: Duration,
    how_long: Duration,
}

impl Queue {
    pub(super) fn arrived(&mut self, connection: ConnectionId, hello: Hello) {
        if self.phase != Phase::Ruling {
            let reason = "this coordinator does not rule yet".to_string();
            self.effects.push(Effect::TurnAway(connection, reason));
            return;
        }
        let (version, ours) = (&hello.version, &self.config.version);
        if version != ours {
            let reason = format!(
                "this worker is perennial `{version}`, the coordinator is `{ours}`; use the same program on both sides"
            );
            self.effects.push(Effect::Refuse(connection, reason));
            return;
        }
        self.coming.remove(&hello.worker);
        if !hello.job.is_empty() {
            return self.came_back(connection, hello);
        }
        if self.state.drained.contains(&hello.worker) {
            self.effects.push(Effect::Dismiss(connection));
            self.dismissed.push_back(hello.worker);
            return;
        }
        let name = self.name_for(&hello.worker);
        self.effects.push(Effect::Wait(connection, name.clone()));
        self.insert(connection, name, hello, None);
    }

    /// A worker of a job, on another connection.
    fn came_back(&mut self, connection: ConnectionId, hello: Hello) {
        let job = hello.job.clone();
        if !self.runs.contains_key(&job) {
            // It hears that its job does not run, and comes to the pool anew.
            self.effects.push(Effect::Wait(connection, hello.worker));
            return;
        }
        self.names = self.names.max(number(&hello.worker));
        self.effects.push(Effect::Hand {
            connection,
            job: job.clone(),
            worker: hello.worker.clone(),
        });
        let name = hello.worker.clone();
        self.insert(connection, name.clone(), hello, Some(job));
        if self.state.drained.contains(&name) {
            // The job's coordinator before this one knew it, this one does not.
            self.let_go(&name);
        }
    }

    fn insert(
        &mut self,
        connection: ConnectionId,
        name: String,
        hello: Hello,
        job: Option<String>,
    ) {
        let worker = Worker {
            name,
            numerics: worker_kind(&hello.numerics).to_string(),
            threads: hello.threads,
            job,
            last_heard: self.now,
            last_sent: self.now,
        };
        self.workers.insert(connection, worker);
    }

    /// The name that it has already, unless that is another worker's.
    fn name_for(&mut self, asked: &str) -> String {
        let taken = self.workers.values().any(|worker| worker.name == asked);
        if taken || number(asked) == 0 {
            self.names += 1;
            return format!("w{}", self.names);
        }
        self.names = self.names.max(number(asked));
        asked.to_string()
    }

    pub(super) fn heard(&mut self, connection: ConnectionId) {
        if let Some(worker) = self.workers.get_mut(&connection) {
            worker.last_heard = self.now;
        }
    }

    pub(super) fn left(&mut self, connection: ConnectionId) {
        let Some(worker) = self.workers.remove(&connection) else {
            return;
        };
        let Some(job) = worker.job else {
            return;
        };
        let assigned = self.assigned(&job) as u32;
        let ending = Run::over();
        let run = self.runs.get(&job).unwrap_or(&ending);
        let expected = run.is_ending() || run.share.is_none_or(|share| assigned >= share);
        if self.state.drained.contains(&worker.name) {
            return;
        }
        if expected {
            let coming = Coming {
                numerics: worker.numerics,
                until: self.now + ON_ITS_WAY,
            };
            self.coming.insert(worker.name, coming);
            return;
        }
        // If it comes to the pool again, it was not welcome there.
        let key = (worker.name, job);
        let before = self.shunned.get(&key).map(|shunned| shunned.how_long);
        let how_long = before.map_or(SHUNNED, |before| (before * 2).min(SHUNNED_AT_MOST));
        let shunned = Shunned {
            until: self.now + how_long,
            how_long,
        };
        self.shunned.insert(key, shunned);
    }

    pub(super) fn is_shunned(&self, worker: &str, job: &str) -> bool {
        let key = (worker.to_string(), job.to_string());
        let shunned = self.shunned.get(&key);
        shunned.is_some_and(|shunned| shunned.until > self.now)
    }

    /// Workers that are the job's now.
    pub(super) fn assigned(&self, job: &str) -> usize {
        let theirs = |worker: &&Worker| worker.job.as_deref() == Some(job);
        self.workers.values().filter(theirs).count()
    }

    pub(super) fn tick(&mut self) {
        if self.now - self.last_tick > OWN_PAUSE {
            // What was said while this process itself did not run is still unheard.
            for worker in self.workers.values_mut() {
                worker.last_heard = self.now;
            }
        }
        self.last_tick = self.now;
        let now = self.now;
        self.shunned
            .retain(|_, shunned| shunned.until + SHUNNED_AT_MOST > now);
        self.coming.retain(|_, coming| coming.until > now);
        let mut silent = Vec::new();
        for (connection, worker) in &mut self.workers {
            if worker.job.is_some() {
                continue;
            }
            if self.now - worker.last_heard > LEASE {
                silent.push(*connection);
            } else if self.now - worker.last_sent >= HEARTBEAT {
                worker.last_sent = self.now;
                self.effects.push(Effect::Beat(*connection));
            }
        }
        for connection in silent {
            self.workers.remove(&connection);
            self.effects.push(Effect::Close(connection));
        }
    }
}
