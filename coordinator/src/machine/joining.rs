//! Workers come, come back, get ready, copy a replica, want to leave.

use perennial_plan::order::steps_per_epoch;
use perennial_proto::rules::job_numerics;
use perennial_proto::v1;
use perennial_proto::v1::worker_message::Kind;

use super::ledger::Ledger;
use super::worker::{Place, Worker};
use super::{ConnectionId, Failure, Machine, Phase};
use crate::JobEvent;
use crate::log::DataFacts;
use crate::replay::number;

impl Machine {
    pub(super) fn worker_message(&mut self, index: usize, kind: Kind) -> Result<(), Failure> {
        match kind {
            Kind::Hello(hello) => {
                let connection = self.workers[index].connection;
                let refused = "a worker greets once on a stream".to_string();
                if hello != self.workers[index].hello
                    && let Some(connection) = connection
                {
                    self.refuse(connection, refused, false);
                }
                Ok(())
            }
            Kind::Ready(ready) => self.ready(index, ready),
            Kind::Standing(standing) => self.standing(index, &standing),
            Kind::CaughtUp(caught_up) => {
                let since = match self.workers[index].place {
                    Place::Following { since, .. } => since,
                    // It came back.
                    Place::Pool => self.now,
                    _ => return Ok(()),
                };
                self.workers[index].place = Place::Following {
                    since,
                    caught_up: Some(caught_up.global_step),
                };
                Ok(())
            }
            Kind::FollowFailed(failed) => {
                if let Place::Following { .. } = self.workers[index].place {
                    tracing::info!(
                        worker = self.workers[index].name,
                        source = failed.source,
                        "copy failed: {}",
                        failed.message
                    );
                    self.workers[index].place = Place::Pool;
                }
                Ok(())
            }
            Kind::Drain(_) => {
                self.start_draining(index);
                Ok(())
            }
            Kind::DeviceMemory(memory) => {
                self.workers[index].device_memory = Some(memory);
                Ok(())
            }
            Kind::Failed(failed) => self.worker_failed(index, &failed),
            kind => self.member_message(index, kind),
        }
    }

    // --- greeting -----------------------------------------------------------------------------------

    pub(super) fn hello(&mut self, connection: ConnectionId, hello: v1::Hello) {
        if self.phase == Phase::Claiming {
            let reason = "this coordinator does not rule yet".to_string();
            return self.refuse(connection, reason, true);
        }
        let (job, ours) = (&hello.job, &self.config.spec.name);
        if !job.is_empty() && job != ours {
            let reason = format!("it coordinates job `{ours}`, this worker is of job `{job}`");
            return self.refuse(connection, reason, true);
        }
        if let Some(reason) = self.why_refused(&hello) {
            return self.refuse(connection, reason, false);
        }
        let known = self.workers.iter().position(|worker| {
            worker.name == hello.worker && worker.incarnation == hello.incarnation
        });
        let index = match known {
            Some(index) => {
                if let Some(old) = self.workers[index].connection {
                    self.close(old);
                }
                let worker = &mut self.workers[index];
                worker.connection = Some(connection);
                worker.awaited = false;
                worker.hello = hello;
                worker.told = 0;
                worker.told_to_stop = false;
                if matches!(worker.place, Place::Following { .. }) {
                    // It may never have heard of it.
                    worker.place = Place::Pool;
                }
                index
            }
            None => {
                let name = self.name_for(&hello.worker);
                self.workers.push(Worker::new(name, connection, hello));
                let index = self.workers.len() - 1;
                self.set_ranks();
                if self.is_member(&self.workers[index]) {
                    self.workers[index].place = Place::AtWork;
                }
                index
            }
        };
        let welcome = v1::Welcome {
            worker: self.workers[index].name.clone(),
            spec_json: serde_json::to_string(&self.config.spec).expect("a spec is plain data"),
            store_url: self.config.store_url.clone(),
        };
        self.send(connection, welcome);
        if self.workers[index].let_go {
            // It may never have heard of it.
            self.release(index, "nothing is lost without it");
        }
    }

    /// The name that it has already, unless that is another worker's.
    fn name_for(&mut self, asked: &str) -> String {
        let taken = self.find(asked).is_some() || number(asked) == 0;
        if taken {
            self.names += 1;
            return format!("w{}", self.names);
        }
        self.names = self.names.max(number(asked));
        asked.to_string()
    }

    /// The decision about a newcomer: none means welcome.
    fn why_refused(&self, hello: &v1::Hello) -> Option<String> {
        let (version, ours) = (&hello.version, &self.config.version);
        if version != ours {
            return Some(format!(
                "this worker is perennial `{version}`, the coordinator is `{ours}`; use the same program on both sides"
            ));
        }
        let class = |hello: &v1::Hello| job_numerics(&self.config.spec, &hello.numerics);
        let numerics = &class(hello);
        let first = self
            .workers
            .iter()
            .find(|worker| worker.connection.is_some());
        if let Some(first) = first.filter(|first| class(&first.hello) != *numerics) {
            return Some(format!(
                "this worker computes with `{numerics}`, worker `{}` with `{}`; their results would differ in the last bits",
                first.name,
                class(&first.hello)
            ));
        }
        let newest = self.newest.as_ref();
        if let Some(newest) = newest.filter(|newest| newest.numerics != *numerics) {
            return Some(format!(
                "this worker computes with `{numerics}`, checkpoint {} was made with `{}`; their results would differ in the last bits",
                newest.global_step, newest.numerics
            ));
        }
        let data = self.data.as_ref();
        if let Some(data) = data.filter(|data| data.numerics != *numerics) {
            return Some(format!(
                "this worker computes with `{numerics}`, the job so far with `{}`; their results would differ in the last bits",
                data.numerics
            ));
        }
        None
    }

    // --- ready --------------------------------------------------------------------------------------

    fn ready(&mut self, index: usize, ready: v1::Ready) -> Result<(), Failure> {
        if let Err(failure) = self.same_data(index, &ready) {
            // Before the first generation nobody can say who of them is right.
            if self.last_generation == 0 {
                return Err(failure);
            }
            self.dismiss(index, failure.message);
            return Ok(());
        }
        let numerics = job_numerics(&self.config.spec, &self.workers[index].hello.numerics);
        if self.data.is_none() || self.last_generation == 0 {
            let data = DataFacts::new(&ready, &numerics);
            self.ledger = Some(Ledger::new(&self.config.spec, &data));
            if let (Some(ledger), Some(newest)) = (&mut self.ledger, &self.newest) {
                ledger.rewind(newest.snapshot.clone());
            }
            let first = self.data.is_none();
            self.data = Some(data);
            if first {
                self.emit_job();
            }
        }
        let again = self.workers[index].ready.is_some();
        let address = ready.collective_address.clone();
        self.workers[index].ready = Some(ready);
        if again {
            return Ok(());
        }
        self.last_ready = self.now;
        let count = self.workers.iter().filter(|worker| worker.is_ready());
        let ready = count.count() as u32;
        let joined = &self.workers[index];
        self.emit(JobEvent::WorkerJoined {
            worker: joined.name.clone(),
            address,
            threads: joined.hello.threads,
            ready,
            workers: self.wanted,
        });
        Ok(())
    }

    /// All members see the same data, and it is what the job was trained on so far.
    fn same_data(&self, index: usize, ready: &v1::Ready) -> Result<(), Failure> {
        let name = &self.workers[index].name;
        let fingerprint = &ready.data_fingerprint;
        if ready.train_samples == 0 || ready.val_samples == 0 {
            return Err(Failure::final_(format!(
                "worker `{name}` sees {} pictures to train on and {} to validate on; both are needed",
                ready.train_samples, ready.val_samples
            )));
        }
        let others = self.workers.iter().enumerate();
        let first = others
            .filter(|(other, worker)| *other != index && worker.is_ready())
            .find_map(|(_, worker)| Some((&worker.name, worker.ready.as_ref()?)));
        if let Some((first_name, first)) = first {
            let differs = |what: &str, one: String, other: String| {
                Err(Failure::final_(format!(
                    "workers `{first_name}` and `{name}` do not see the same data: {what} {one} and {other}; give every worker the same folder"
                )))
            };
            if first.classes != ready.classes {
                return differs(
                    "classes",
                    format!("{:?}", first.classes),
                    format!("{:?}", ready.classes),
                );
            }
            let samples =
                |ready: &v1::Ready| format!("{} + {}", ready.train_samples, ready.val_samples);
            if samples(first) != samples(ready) {
                return differs("pictures", samples(first), samples(ready));
            }
            if first.data_fingerprint != *fingerprint {
                let quoted = |fingerprint: &str| format!("`{fingerprint}`");
                return differs(
                    "fingerprints",
                    quoted(&first.data_fingerprint),
                    quoted(fingerprint),
                );
            }
            if first.parameters != ready.parameters {
                return Err(Failure::final_(format!(
                    "workers `{first_name}` and `{name}` do not have the same network: {} and {} parameters",
                    first.parameters, ready.parameters
                )));
            }
        }
        let newest = self.newest.as_ref();
        if let Some(newest) = newest.filter(|newest| newest.data_fingerprint != *fingerprint) {
            return Err(Failure::final_(format!(
                "the data is not what checkpoint {} was trained on: its fingerprint is `{fingerprint}`, there `{}`; use the same pictures, or give the job another name",
                newest.global_step, newest.data_fingerprint
            )));
        }
        let data = self.data.as_ref().filter(|_| self.last_generation > 0);
        if let Some(data) = data.filter(|data| data.fingerprint != *fingerprint) {
            return Err(Failure::final_(format!(
                "the data is not what the job was trained on so far: worker `{name}` has the fingerprint `{fingerprint}`, there it was `{}`; use the same pictures, or give the job another name",
                data.fingerprint
            )));
        }
        Ok(())
    }

    pub(super) fn emit_job(&mut self) {
        let (spec, Some(data)) = (&self.config.spec, &self.data) else {
            return;
        };
        self.emit(JobEvent::Job {
            name: spec.name.clone(),
            store: self.config.store_url.clone(),
            workers: self.wanted,
            train_samples: data.train_samples,
            val_samples: data.val_samples,
            classes: data.classes.clone(),
            skipped: data.skipped,
            parameters: data.parameters,
            epochs: spec.train.epochs,
            steps_per_epoch: steps_per_epoch(
                data.train_samples as usize,
                spec.train.batch_size as usize,
            ),
        });
    }

    // --- leaving ------------------------------------------------------------------------------------

    /// A worker that serves the job no more, and why.
    fn dismiss(&mut self, index: usize, reason: String) {
        let name = self.workers[index].name.clone();
        self.warn(format!("worker `{name}` is not taken: {reason}"));
        self.send_to(index, v1::End { error: reason });
        if let Some(connection) = self.workers[index].connection.take() {
            self.close(connection);
        }
        self.forget_if_no_member(index);
    }

    /// A member that is gone is remembered until the next generation, as is one of the next generation.
    pub(super) fn forget_if_no_member(&mut self, index: usize) {
        if !self.is_member(&self.workers[index]) && !self.is_proposed(&self.workers[index]) {
            self.workers.remove(index);
        }
    }

    pub(super) fn start_draining(&mut self, index: usize) {
        if std::mem::replace(&mut self.workers[index].draining, true) {
            return;
        }
        let name = self.workers[index].name.clone();
        self.emit(JobEvent::WorkerLeaving { worker: name });
        if !self.is_member(&self.workers[index]) {
            self.release(index, "it asked to leave");
        }
    }

    /// Lets those go, the youngest first, that are no members and more than the job wants. Members leave at a
    /// boundary.
    pub(super) fn let_surplus_go(&mut self) {
        let stays =
            |worker: &Worker| worker.connection.is_some() && !worker.draining && !worker.released;
        let present = self.workers.iter().filter(|worker| stays(worker)).count();
        let surplus = present.saturating_sub(self.target());
        let spare = |index: &usize| {
            let worker = &self.workers[*index];
            stays(worker) && !self.is_member(worker) && worker.place != Place::Stray
        };
        let spare: Vec<usize> = (0..self.workers.len()).rev().filter(spare).collect();
        for index in spare.into_iter().take(surplus) {
            self.start_draining(index);
        }
    }

    pub(super) fn release(&mut self, index: usize, reason: &str) {
        let reason = reason.to_string();
        self.send_to(index, v1::Release { reason });
        self.workers[index].released = true;
        self.workers[index].let_go = true;
    }

    /// `drain WORKER`.
    pub(super) fn drain(&mut self, worker: &str) {
        if let Some(index) = self.find(worker) {
            self.start_draining(index);
        }
    }

    /// Why the job cannot have this number of workers, if so.
    pub fn why_not_scale(&self, wanted: u32) -> Option<String> {
        let elastic = &self.config.spec.elastic;
        if wanted < elastic.min_workers {
            return Some(format!(
                "{wanted} workers are fewer than `elastic.min_workers`, which is {}",
                elastic.min_workers
            ));
        }
        let most = elastic.max_workers.filter(|most| wanted > *most)?;
        Some(format!(
            "{wanted} workers are more than `elastic.max_workers`, which is {most}"
        ))
    }

    /// `scale JOB N`.
    pub(super) fn scale(&mut self, wanted: u32) {
        if wanted == self.wanted {
            return;
        }
        self.wanted = wanted;
        self.log.push(crate::log::LogEntry::Scale { wanted });
        self.emit(JobEvent::Scaled { wanted });
    }

    fn worker_failed(&mut self, index: usize, failed: &v1::Failed) -> Result<(), Failure> {
        let (name, message) = (self.workers[index].name.clone(), &failed.message);
        let sentence = format!("worker `{name}` failed: {message}");
        if failed.fatal || self.last_generation == 0 {
            return Err(Failure::resumable(sentence));
        }
        self.warn(sentence);
        let connection = self.workers[index].connection.take();
        if let Some(connection) = connection {
            self.close(connection);
        }
        self.gone(index, "it failed");
        Ok(())
    }

    pub(super) fn disconnected(&mut self, connection: ConnectionId, cause: &str) {
        self.connections.remove(&connection);
        let Some(index) = self
            .workers
            .iter()
            .position(|worker| worker.connection == Some(connection))
        else {
            return;
        };
        self.workers[index].connection = None;
        let broke = if cause.is_empty() {
            "its connection closed".to_string()
        } else {
            format!("its connection broke ({cause})")
        };
        self.gone(index, &broke);
    }

    /// A worker is not there any more.
    pub(super) fn gone(&mut self, index: usize, why: &str) {
        let worker = &self.workers[index];
        let (name, expected) = (worker.name.clone(), worker.released);
        let member = self.is_member(worker);
        if !expected && !self.has_everything() && !matches!(self.phase, Phase::Failing(_)) {
            self.emit(JobEvent::WorkerLost {
                worker: name.clone(),
                reason: why.to_string(),
            });
        }
        self.forget_if_no_member(index);
        if member && self.phase == Phase::Running {
            self.break_up(format!("worker `{name}` is gone: {why}"));
        }
    }
}
