//! How a run ends: finished, stopped on request, or failed.

use std::time::Duration;

use perennial_proto::rules::{HEARTBEAT, LEASE, OWN_PAUSE};
use perennial_proto::v1;

use super::checkpoints::Last;
use super::{ConnectionId, Effect, Failure, Machine, Outcome, Phase, ReportInput, Suspicion};
use crate::JobEvent;

/// How long to wait for news of a worker that a peer has lost.
const SUSPICION: Duration = Duration::from_secs(2);

/// How long a failed run waits for a commit that is under way.
const LAST_COMMIT: Duration = Duration::from_secs(4);

impl Machine {
    pub(super) fn tick(&mut self) -> Result<(), Failure> {
        if matches!(self.phase, Phase::Failing(_)) {
            if self.now >= self.failing_until {
                self.end_failing();
            }
            return Ok(());
        }
        self.forgive_own_pause();
        self.beat();
        self.drop_silent_strangers();
        if !self.has_everything() {
            for worker in &self.workers {
                let heard = self
                    .connections
                    .get(&worker.connection)
                    .map(|connection| connection.last_heard);
                let silence = self.now.saturating_sub(heard.unwrap_or(self.now));
                if silence > LEASE {
                    return Err(Failure::resumable(format!(
                        "worker `{}` has been silent for {:.1} s",
                        worker.name,
                        silence.as_secs_f64()
                    )));
                }
            }
        }
        match self
            .suspicion
            .take_if(|suspicion| self.now >= suspicion.until)
        {
            Some(suspicion) => Err(Failure::resumable(suspicion.sentence)),
            None => Ok(()),
        }
    }

    /// When this process itself did not run for a while, what was said meanwhile is still unheard.
    fn forgive_own_pause(&mut self) {
        if self.now - self.last_tick > OWN_PAUSE {
            for connection in self.connections.values_mut() {
                connection.last_heard = self.now;
            }
        }
        self.last_tick = self.now;
    }

    /// Shows every worker that the coordinator lives.
    fn beat(&mut self) {
        let due: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(_, connection)| self.now - connection.last_sent >= HEARTBEAT)
            .map(|(id, _)| *id)
            .collect();
        for connection in due {
            self.send(connection, v1::Heartbeat {});
        }
    }

    /// A connection that never greeted is nobody's loss.
    fn drop_silent_strangers(&mut self) {
        let silent: Vec<ConnectionId> = self
            .connections
            .iter()
            .filter(|(id, connection)| {
                let stranger = self.workers.iter().all(|worker| worker.connection != **id);
                stranger && self.now - connection.last_heard > LEASE
            })
            .map(|(id, _)| *id)
            .collect();
        for connection in silent {
            self.connections.remove(&connection);
            self.effects.push(Effect::Close(connection));
        }
    }

    pub(super) fn disconnected(
        &mut self,
        connection: ConnectionId,
        cause: &str,
    ) -> Result<(), Failure> {
        self.connections.remove(&connection);
        let Some(worker) = self
            .workers
            .iter()
            .find(|worker| worker.connection == connection)
        else {
            return Ok(());
        };
        if worker.failed || matches!(self.phase, Phase::Failing(_)) || self.has_everything() {
            return Ok(());
        }
        let broke = if cause.is_empty() {
            "its connection closed".to_string()
        } else {
            format!("its connection broke ({cause})")
        };
        Err(Failure::resumable(format!(
            "worker `{}` is gone: {broke}; its own output may say why",
            worker.name
        )))
    }

    pub(super) fn worker_failed(&mut self, rank: usize, failed: v1::Failed) -> Result<(), Failure> {
        let worker = &mut self.workers[rank];
        worker.failed = true;
        let (name, message) = (&worker.name, &failed.message);
        if failed.lost_peer.is_empty() {
            return Err(Failure::resumable(format!(
                "worker `{name}` failed: {message}"
            )));
        }
        let sentence = format!(
            "worker `{name}` lost worker `{}`: {message}",
            failed.lost_peer
        );
        let until = self.now + SUSPICION;
        self.suspicion.get_or_insert(Suspicion { until, sentence });
        Ok(())
    }

    pub(super) fn stop_requested(&mut self) {
        self.stop_requested = true;
        match self.phase {
            Phase::Waiting | Phase::Starting => self.conclude(None),
            Phase::Running => {
                self.phase = Phase::Stopping;
                self.send_to_all(v1::Stop {});
            }
            _ => {}
        }
    }

    /// Whether no member has anything left to give: then it may leave.
    fn has_everything(&self) -> bool {
        let final_step = self
            .ledger
            .as_ref()
            .map_or(0, |ledger| ledger.global_step());
        self.phase == Phase::Finishing && self.checkpoints.has_all_parts(final_step)
    }

    /// Goes on to the report once the last checkpoint is in the store.
    pub(super) fn conclude_if_written(&mut self) -> Result<(), Failure> {
        let Some(ledger) = self
            .ledger
            .as_ref()
            .filter(|_| self.phase == Phase::Finishing)
        else {
            return Ok(());
        };
        if self.report_requested {
            return Ok(());
        }
        if self.has_moved() {
            match self.checkpoints.at(ledger.global_step()) {
                Last::UnderWay => return Ok(()),
                Last::Failed(message) => {
                    return Err(Failure::resumable(format!(
                        "the last checkpoint could not be written: {message}"
                    )));
                }
                Last::Committed => {}
            }
        }
        self.report_requested = true;
        match self.report_input() {
            Some(input) => self.effects.push(Effect::WriteReport(Box::new(input))),
            None => self.conclude(None),
        }
        Ok(())
    }

    /// The report of the last epoch that this run evaluated.
    fn report_input(&self) -> Option<ReportInput> {
        let (ledger, generation) = (self.ledger.as_ref()?, self.generation.as_ref()?);
        let first = self.workers.first()?;
        let (global_step, epochs_done) = ledger.evaluated();
        let hashes = self
            .evaluated
            .clone()
            .filter(|hashes| hashes.epochs_done == epochs_done);
        Some(ReportInput {
            finished: ledger.global_step() == ledger.total_steps(),
            epochs_done,
            global_step,
            ready: first.ready.clone()?,
            numerics: first.hello.numerics.clone(),
            workers: generation.members.len() as u32,
            generation: generation.id,
            history: ledger.history().to_vec(),
            evaluations: ledger.last_evaluations()?.clone(),
            weights_sha256: hashes.as_ref().map(|hashes| hashes.weights_sha256.clone()),
            ema_sha256: hashes.and_then(|hashes| hashes.ema_sha256),
        })
    }

    pub(super) fn report_failed(&mut self, message: &str) -> Result<(), Failure> {
        let finished = self
            .ledger
            .as_ref()
            .is_some_and(|ledger| ledger.global_step() == ledger.total_steps());
        if finished {
            return Err(Failure::final_(format!(
                "all epochs are done and their last checkpoint is written, but the report is not: {message}"
            )));
        }
        self.warn(format!("the report could not be written: {message}"));
        self.conclude(None);
        Ok(())
    }

    /// The end without an error. `report` is where the HTML report lies.
    pub(super) fn conclude(&mut self, report: Option<String>) {
        let resumed = self
            .config
            .resume
            .as_ref()
            .map_or(0, |resume| resume.global_step);
        let (step, total) = self.ledger.as_ref().map_or((resumed, u64::MAX), |ledger| {
            (ledger.global_step(), ledger.total_steps())
        });
        let (event, outcome) = match (report, &self.evaluated) {
            (Some(report), Some(hashes)) if step == total => {
                let (weights_sha256, ema_sha256) =
                    (hashes.weights_sha256.clone(), hashes.ema_sha256.clone());
                let event = JobEvent::Finished {
                    weights_sha256: weights_sha256.clone(),
                    ema_sha256: ema_sha256.clone(),
                    report: report.clone(),
                };
                let outcome = Outcome::Finished {
                    global_step: step,
                    weights_sha256,
                    ema_sha256,
                    report,
                };
                (event, outcome)
            }
            (report, _) => {
                let resume = self.how_to_resume();
                let event = JobEvent::Stopped {
                    global_step: step,
                    resume: resume.clone(),
                    report: report.clone(),
                };
                let outcome = Outcome::Stopped {
                    global_step: step,
                    resume,
                    report,
                };
                (event, outcome)
            }
        };
        self.send_to_all(v1::End {
            error: String::new(),
        });
        self.emit(event);
        self.end(outcome);
    }

    /// The end with an error: everybody is told at once; a commit under way may still count.
    pub(super) fn fail(&mut self, failure: Failure) {
        if matches!(self.phase, Phase::Failing(_)) {
            return;
        }
        let error = self.sentence(&failure);
        self.send_to_all(v1::End { error });
        self.failing_until = self.now + LAST_COMMIT;
        self.phase = Phase::Failing(failure);
        self.end_failing_unless_committing();
    }

    pub(super) fn end_failing_unless_committing(&mut self) {
        if !self.checkpoints.is_committing() {
            self.end_failing();
        }
    }

    fn end_failing(&mut self) {
        let Phase::Failing(failure) = &self.phase else {
            return;
        };
        let message = self.sentence(failure);
        self.emit(JobEvent::Error {
            message: message.clone(),
        });
        self.end(Outcome::Failed { message });
    }

    fn end(&mut self, outcome: Outcome) {
        self.phase = Phase::Ended;
        self.effects.push(Effect::End(outcome));
    }

    fn sentence(&self, failure: &Failure) -> String {
        if failure.resumable {
            format!("{}; {}", failure.message, self.how_to_resume())
        } else {
            failure.message.clone()
        }
    }

    fn how_to_resume(&self) -> String {
        let command = &self.config.resume_command;
        match self.checkpoints.newest() {
            Some(step) => format!("`{command}` goes on from checkpoint {step}"),
            None => format!("there is no checkpoint yet, `{command}` starts from the beginning"),
        }
    }
}
