//! From a greeting to a started generation.

use perennial_plan::order::steps_per_epoch;
use perennial_plan::{Cursor, Generation};
use perennial_proto::v1;

use super::ledger::Ledger;
use super::{ConnectionId, Effect, Failure, LogEntry, Machine, Phase, Worker};
use crate::JobEvent;

impl Machine {
    pub(super) fn hello(&mut self, connection: ConnectionId, hello: v1::Hello) {
        if let Some(reason) = self.why_refused(&hello) {
            return self.refuse(connection, reason);
        }
        self.welcomed += 1;
        let name = format!("w{}", self.welcomed);
        let welcome = v1::Welcome {
            worker: name.clone(),
            spec_json: serde_json::to_string(&self.config.spec).expect("a spec is plain data"),
            store_url: self.config.store_url.clone(),
        };
        self.workers.push(Worker {
            connection,
            name,
            hello,
            ready: None,
            finished: false,
            failed: false,
        });
        self.send(connection, welcome);
    }

    /// The decision about a newcomer: none means welcome.
    fn why_refused(&self, hello: &v1::Hello) -> Option<String> {
        let (version, ours) = (&hello.version, &self.config.version);
        if version != ours {
            return Some(format!(
                "this worker is perennial `{version}`, the coordinator is `{ours}`; use the same program on both sides"
            ));
        }
        let numerics = &hello.numerics;
        if let Some(first) = self
            .workers
            .first()
            .filter(|first| first.hello.numerics != *numerics)
        {
            return Some(format!(
                "this worker computes with `{numerics}`, worker `{}` with `{}`; their results would differ in the last bits",
                first.name, first.hello.numerics
            ));
        }
        if let Some(resume) = self
            .config
            .resume
            .as_ref()
            .filter(|resume| resume.numerics != *numerics)
        {
            return Some(format!(
                "this worker computes with `{numerics}`, checkpoint {} was made with `{}`; their results would differ in the last bits",
                resume.global_step, resume.numerics
            ));
        }
        if self.workers.len() >= self.config.expected_workers as usize {
            let (name, count) = (&self.config.spec.name, self.config.expected_workers);
            return Some(format!("job `{name}` has its {count} workers"));
        }
        None
    }

    pub(super) fn ready(&mut self, rank: usize, ready: v1::Ready) -> Result<(), Failure> {
        if self.phase != Phase::Waiting || self.workers[rank].ready.is_some() {
            self.say_stale(rank, "readiness");
            return Ok(());
        }
        self.same_data(rank, &ready)?;
        let first = self.workers.iter().all(|worker| worker.ready.is_none());
        if first {
            self.emit_job(&ready);
        }
        let address = ready.collective_address.clone();
        self.workers[rank].ready = Some(ready);
        let count = self
            .workers
            .iter()
            .filter(|worker| worker.ready.is_some())
            .count() as u32;
        let joined = &self.workers[rank];
        self.emit(JobEvent::WorkerJoined {
            worker: joined.name.clone(),
            address,
            threads: joined.hello.threads,
            ready: count,
            workers: self.config.expected_workers,
        });
        if count == self.config.expected_workers {
            self.propose();
        }
        Ok(())
    }

    /// All members see the same data, and it is what the checkpoint was trained on.
    fn same_data(&self, rank: usize, ready: &v1::Ready) -> Result<(), Failure> {
        let name = &self.workers[rank].name;
        let fingerprint = &ready.data_fingerprint;
        if ready.train_samples == 0 || ready.val_samples == 0 {
            return Err(Failure::final_(format!(
                "worker `{name}` sees {} pictures to train on and {} to validate on; both are needed",
                ready.train_samples, ready.val_samples
            )));
        }
        let first = self
            .workers
            .iter()
            .find_map(|worker| Some((&worker.name, worker.ready.as_ref()?)));
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
        match &self.config.resume {
            Some(resume) if resume.data_fingerprint != *fingerprint => {
                Err(Failure::final_(format!(
                    "the data is not what checkpoint {} was trained on: its fingerprint is `{fingerprint}`, there `{}`; use the same pictures, or give the job another name",
                    resume.global_step, resume.data_fingerprint
                )))
            }
            _ => Ok(()),
        }
    }

    fn emit_job(&mut self, ready: &v1::Ready) {
        let spec = &self.config.spec;
        self.emit(JobEvent::Job {
            name: spec.name.clone(),
            store: self.config.store_url.clone(),
            workers: self.config.expected_workers,
            train_samples: ready.train_samples,
            val_samples: ready.val_samples,
            classes: ready.classes.clone(),
            skipped: ready.skipped,
            parameters: ready.parameters,
            epochs: spec.train.epochs,
            steps_per_epoch: steps_per_epoch(
                ready.train_samples as usize,
                spec.train.batch_size as usize,
            ),
        });
    }

    /// Everybody is ready: the generation takes effect once the log has it.
    fn propose(&mut self) {
        let ready = |worker: &Worker| worker.ready.clone().unwrap_or_default();
        let members = self
            .workers
            .iter()
            .map(|worker| (worker.name.clone(), ready(worker).collective_address))
            .collect();
        let resume = self.config.resume.as_ref();
        let generation = Generation::deal(
            self.config.generation,
            members,
            self.config.spec.train.slots,
            resume.map_or(Cursor::default(), |resume| resume.snapshot.cursor),
            resume.map(|resume| resume.global_step),
        );
        let first = &self.workers[0];
        let entry = LogEntry::Generation {
            generation: generation.clone(),
            writer: self.config.writer.clone(),
            version: self.config.version.clone(),
            numerics: first.hello.numerics.clone(),
            data_fingerprint: ready(first).data_fingerprint,
        };
        self.ledger = Some(Ledger::new(&self.config, &generation, &ready(first)));
        self.generation = Some(generation);
        self.phase = Phase::Starting;
        self.effects.push(Effect::AppendLog {
            position: self.config.log_position,
            entry: Box::new(entry),
        });
    }

    /// The log has the generation.
    pub(super) fn start(&mut self) -> Result<(), Failure> {
        let (Phase::Starting, Some(generation), Some(ledger)) =
            (&self.phase, &self.generation, &self.ledger)
        else {
            return Ok(());
        };
        let start = v1::Start {
            generation_json: serde_json::to_string(generation).expect("a generation is plain data"),
        };
        let event = JobEvent::Started {
            generation: generation.id,
            epoch: generation.start.epoch + 1,
            step: generation.start.step,
            global_step: ledger.global_step(),
            total_steps: ledger.total_steps(),
            resumed_from: generation.checkpoint,
        };
        self.phase = Phase::Running;
        self.emit(event);
        self.send_to_all(start);
        Ok(())
    }

    pub(super) fn log_race_lost(&self) -> Failure {
        Failure::final_(format!(
            "another coordinator rules job `{}`: it wrote position {} of the job's log first; this one steps down",
            self.config.spec.name, self.config.log_position
        ))
    }
}
