//! Workers that hold sessions and write checkpoints, and do not train: the replica is the number of
//! steps applied.

use perennial_coordinator::machine::Evaluations;
use perennial_plan::order::{batch_range, steps_per_epoch};
use perennial_plan::{Cursor, Generation, Spec};
use perennial_proto::VERSION;
use perennial_proto::rules::{checkpoint_due, part_kinds, part_writer};
use perennial_proto::v1::{EpochDone, Finished, Hello, PartWritten, Ready, StepDone};
use perennial_report::Evaluation;
use perennial_store::{HostTensor, Job, NamedTensors, PartKind, Store, tensors};
use perennial_worker::session::{Report, SessionEvent, SessionHandle, connect};

pub const TRAIN_SAMPLES: u64 = 25;
pub const VAL_SAMPLES: u64 = 8;

pub fn hello() -> Hello {
    Hello {
        version: VERSION.into(),
        numerics: "fake".into(),
        threads: 1,
    }
}

/// What a worker does after so many global steps.
#[derive(Debug)]
pub enum Then {
    /// It waits for the coordinator's word, as if a peer did not come to a collective.
    Wait(u64),
    /// It is gone once it is told to.
    Leave(u64, std::sync::mpsc::Receiver<()>),
}

/// Works until the session ends, and returns how; nothing when it left by itself.
pub fn work(url: &str, then: Option<Then>) -> Option<SessionEvent> {
    let session = connect(url, hello()).unwrap();
    let (name, spec, job) = match session.recv() {
        SessionEvent::Welcome {
            worker,
            spec,
            store_url,
        } => {
            let job = Store::open(&store_url).unwrap().job(&spec.name).unwrap();
            (worker, *spec, job)
        }
        other => return Some(other),
    };
    session.send(Report::Ready(Ready {
        data_fingerprint: "fingerprint".into(),
        train_samples: TRAIN_SAMPLES,
        val_samples: VAL_SAMPLES,
        classes: vec!["maize".into(), "wheat".into()],
        skipped: 0,
        parameters: 1,
        collective_address: "127.0.0.1:1".into(),
    }));
    let generation = match session.recv() {
        SessionEvent::Start(generation) => generation,
        other => return Some(other),
    };
    let member = FakeMember::new(session, name, spec, job, generation);
    member.train(then)
}

struct FakeMember {
    session: SessionHandle,
    rank: usize,
    spec: Spec,
    job: Job,
    generation: Generation,
    steps_per_epoch: u32,
    runtime: tokio::runtime::Runtime,
}

// === impl FakeMember ===

impl FakeMember {
    fn new(
        session: SessionHandle,
        name: String,
        spec: Spec,
        job: Job,
        generation: Generation,
    ) -> Self {
        let mut members = generation.members.iter();
        Self {
            session,
            rank: members.position(|member| member.worker == name).unwrap(),
            steps_per_epoch: steps_per_epoch(
                TRAIN_SAMPLES as usize,
                spec.train.batch_size as usize,
            ),
            spec,
            job,
            generation,
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
        }
    }

    fn train(self, then: Option<Then>) -> Option<SessionEvent> {
        let mut cursor = self.generation.start;
        let mut replica = self.load();
        let mut stopping = false;
        while cursor.epoch < self.spec.train.epochs && !stopping {
            match &then {
                Some(Then::Leave(at, told)) if *at == replica => {
                    told.recv().unwrap();
                    return None;
                }
                Some(Then::Wait(at)) if *at == replica => match self.session.recv() {
                    SessionEvent::StopRequested => stopping = true,
                    other => return Some(other),
                },
                _ => {}
            }
            self.report_step(cursor, replica);
            replica += 1;
            let applied = cursor;
            cursor = cursor.next(self.steps_per_epoch);
            if cursor.step == 0 && self.rank == 0 {
                self.report_epoch(applied.epoch);
            }
            if stopping || checkpoint_due(&self.spec, cursor, self.steps_per_epoch) {
                self.write_parts(replica);
            }
        }
        self.session.send(Report::Finished(Finished {
            generation: self.generation.id,
            epoch: cursor.epoch,
            step: cursor.step,
            stopped_early: cursor.epoch < self.spec.train.epochs,
        }));
        Some(self.session.recv())
    }

    /// The replica of the generation's checkpoint.
    fn load(&self) -> u64 {
        let Some(step) = self.generation.checkpoint else {
            return 0;
        };
        let loading = async {
            let manifest = self.job.load_manifest(step).await.unwrap();
            self.job
                .load_part(&manifest, PartKind::Model)
                .await
                .unwrap()
        };
        assert_eq!(self.runtime.block_on(loading), replica_tensors(step));
        step
    }

    fn report_step(&self, cursor: Cursor, replica: u64) {
        let batch_size = self.spec.train.batch_size as usize;
        let samples = batch_range(TRAIN_SAMPLES as usize, batch_size, cursor.step).len() as u64;
        self.session.send(Report::StepDone(StepDone {
            generation: self.generation.id,
            epoch: cursor.epoch,
            step: cursor.step,
            samples,
            loss_sum: samples as f64 / (replica + 1) as f64,
            top1: samples / 2,
            top5: samples,
            learning_rate: 0.1,
            grad_norm: 1.0,
            replica_hash: replica + 1,
            seconds: 0.25,
        }));
    }

    fn report_epoch(&self, epoch: u32) {
        let raw = Evaluation {
            samples: VAL_SAMPLES,
            loss: 0.5,
            top1: 0.5,
            top5: 1.0,
            k: 2,
            confusion: vec![vec![4, 0], vec![4, 0]],
            mistakes: Vec::new(),
        };
        let ema = Some(raw.clone());
        self.session.send(Report::EpochDone(EpochDone {
            generation: self.generation.id,
            epoch,
            evaluation_json: serde_json::to_vec(&Evaluations { raw, ema }).unwrap(),
        }));
    }

    fn write_parts(&self, replica: u64) {
        let kinds = [PartKind::Model, PartKind::Ema, PartKind::Optimizer];
        assert_eq!(part_kinds(&self.spec), kinds.map(PartKind::as_str));
        for (index, kind) in kinds.into_iter().enumerate() {
            if part_writer(index, self.generation.members.len()) != self.rank {
                continue;
            }
            let replica_tensors = replica_tensors(replica);
            let writing = self.job.write_tensors(replica, kind, &replica_tensors);
            let part = self.runtime.block_on(writing).unwrap();
            self.session.send(Report::PartWritten(PartWritten {
                generation: self.generation.id,
                global_step: replica,
                kind: kind.as_str().into(),
                path: part.path,
                bytes: part.bytes,
                sha256: part.sha256,
                tensors_sha256: tensors::weights_sha256(&replica_tensors),
            }));
        }
    }
}

fn replica_tensors(replica: u64) -> NamedTensors {
    let steps = HostTensor::f32([1], vec![replica as f32]);
    [("steps".to_string(), steps)].into()
}
