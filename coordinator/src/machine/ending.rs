//! How a run ends: finished, stopped on request, or failed.

use std::time::Duration;

use perennial_proto::rules::{HEARTBEAT, LEASE, OWN_PAUSE};
use perennial_proto::v1;

use super::checkpoints::Last;
use super::retry::Again;
use super::{ConnectionId, Effect, Failure, FailureKind, Machine, Outcome, Phase, ReportInput};
use crate::JobEvent;
use crate::log::LogEntry;

/// How long a failed run waits for a commit that is under way.
const LAST_COMMIT: Duration = Duration::from_secs(4);

impl Machine {
    pub(super) fn tick(&mut self) {
        if matches!(self.phase, Phase::Failing(_)) {
            if self.now >= self.failing_until {
                self.end_failing();
            }
            return;
        }
        self.forgive_own_pause();
        self.beat();
        self.drop_silent_strangers();
        self.give_up_the_silent();
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
                let known = |worker: &super::Worker| worker.connection == Some(**id);
                !self.workers.iter().any(known) && self.now - connection.last_heard > LEASE
            })
            .map(|(id, _)| *id)
            .collect();
        for connection in silent {
            self.close(connection);
        }
    }

    fn give_up_the_silent(&mut self) {
        let silent: Vec<(ConnectionId, Duration)> = self
            .workers
            .iter()
            .filter_map(|worker| {
                let id = worker.connection?;
                let silence = self.now - self.connections.get(&id)?.last_heard;
                (silence > LEASE).then_some((id, silence))
            })
            .collect();
        for (connection, silence) in silent {
            self.close(connection);
            let index = self
                .workers
                .iter()
                .position(|worker| worker.connection == Some(connection));
            if let Some(index) = index {
                self.workers[index].connection = None;
                let seconds = silence.as_secs_f64();
                self.gone(index, &format!("it has been silent for {seconds:.1} s"));
            }
        }
    }

    pub(super) fn stop_requested(&mut self) {
        self.stop_requested = true;
        match self.phase {
            Phase::Claiming => self.stop_without_a_trace(),
            Phase::Assembling if self.generation.is_none() => self.conclude(None),
            // Members are told as soon as there are any.
            _ => {}
        }
    }

    /// Tells the members that a stop was asked for: each once in a generation and on a connection.
    pub(super) fn tell_to_stop(&mut self) {
        for index in self.members() {
            let worker = &mut self.workers[index];
            if worker.connection.is_some() && !std::mem::replace(&mut worker.told_to_stop, true) {
                self.send_to(index, v1::Stop {});
            }
        }
    }

    /// The end at once. Members break off where they are.
    pub(super) fn break_off(&mut self) {
        self.stop_requested = true;
        match self.phase {
            Phase::Claiming => self.stop_without_a_trace(),
            Phase::Assembling | Phase::Starting | Phase::Running => {
                self.proposal = None;
                self.conclude(None);
            }
            // It ends already.
            _ => {}
        }
    }

    fn stop_without_a_trace(&mut self) {
        let global_step = self.newest.as_ref().map_or(0, |newest| newest.global_step);
        let resume = self.how_to_resume();
        self.emit(JobEvent::Stopped {
            global_step,
            resume: resume.clone(),
            report: None,
        });
        self.end(Outcome::Stopped {
            global_step,
            resume,
            report: None,
        });
    }

    /// Whether no member has anything left to give: then it may leave.
    pub(super) fn has_everything(&self) -> bool {
        let final_step = self
            .ledger
            .as_ref()
            .map_or(0, |ledger| ledger.global_step());
        match self.phase {
            Phase::Finishing => self.checkpoints.has_all_parts(final_step),
            Phase::Concluding | Phase::Ended => true,
            _ => false,
        }
    }

    /// The end of a run: the last checkpoint, then the report. Where a member is lost before its parts are
    /// there, others write them.
    pub(super) fn finish_or_try_again(&mut self) -> Result<(), Failure> {
        if self.report_requested {
            return self.try_the_report_again();
        }
        let Some(ledger) = &self.ledger else {
            return Ok(());
        };
        let step = ledger.global_step();
        let gone = self
            .members()
            .into_iter()
            .find(|index| self.workers[*index].connection.is_none());
        let abandoned = gone.filter(|_| !self.checkpoints.has_all_parts(step));
        if let Some(index) = abandoned {
            let name = self.workers[index].name.clone();
            self.break_up(format!("worker `{name}` left before the last checkpoint"));
            return Ok(());
        }
        if step == 0 {
            return self.request_report();
        }
        match self.checkpoints.at(step) {
            Last::UnderWay => Ok(()),
            Last::Committed => self.request_report(),
            Last::Failed(message) => {
                let message = message.to_string();
                self.try_the_last_checkpoint_again(step, &message)
            }
        }
    }

    fn try_the_last_checkpoint_again(&mut self, step: u64, why: &str) -> Result<(), Failure> {
        match self.last_checkpoint_retry.again(self.now) {
            Again::NotYet => {}
            Again::Now if self.checkpoints.has_all_parts(step) => {
                if let Some(ledger) = &self.ledger {
                    self.checkpoints.commit_again(step, ledger.snapshot());
                }
                self.commit_complete();
            }
            Again::Now => self.break_up("the last checkpoint is written again".to_string()),
            Again::Never => {
                return Err(Failure::resumable(format!(
                    "the last checkpoint could not be written: {why}"
                )));
            }
        }
        Ok(())
    }

    /// Goes on to the report: the last checkpoint is in the store.
    pub(super) fn request_report(&mut self) -> Result<(), Failure> {
        self.report_requested = true;
        self.report_failure = None;
        match self.report_input() {
            Some(input) => self.effects.push(Effect::WriteReport(Box::new(input))),
            None => self.conclude(None),
        }
        Ok(())
    }

    /// The report of the last epoch that was evaluated.
    fn report_input(&self) -> Option<ReportInput> {
        let (ledger, generation) = (self.ledger.as_ref()?, self.generation.as_ref()?);
        let (global_step, epochs_done) = ledger.evaluated();
        let hashes = self
            .evaluated
            .clone()
            .filter(|hashes| hashes.epochs_done == epochs_done);
        let finished = ledger.global_step() == ledger.total_steps();
        Some(ReportInput {
            finished,
            epochs_done,
            global_step,
            data: self.data.clone()?,
            workers: generation.members.len() as u32,
            generation: generation.id,
            history: ledger.history().to_vec(),
            evaluations: ledger.last_evaluations()?.clone(),
            weights_sha256: hashes.as_ref().map(|hashes| hashes.weights_sha256.clone()),
            ema_sha256: hashes.and_then(|hashes| hashes.ema_sha256),
            ledger_root: finished.then(|| ledger.root().root()),
        })
    }

    pub(super) fn report_failed(&mut self, message: String) {
        if self.report_requested && self.report_failure.is_none() {
            self.warn(format!(
                "the report could not be written and is tried again: {message}"
            ));
        }
        self.report_failure = Some(message);
    }

    /// Tries a report that failed again, as long as there is patience.
    fn try_the_report_again(&mut self) -> Result<(), Failure> {
        let Some(message) = self.report_failure.clone() else {
            return Ok(());
        };
        match self.report_retry.again(self.now) {
            Again::NotYet => Ok(()),
            Again::Now => self.request_report(),
            Again::Never => self.give_up_the_report(&message),
        }
    }

    fn give_up_the_report(&mut self, message: &str) -> Result<(), Failure> {
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

    /// The end without an error, once the log has it. `report` is where the HTML report lies.
    pub(super) fn conclude(&mut self, report: Option<String>) {
        let newest = self.newest.as_ref().map_or(0, |newest| newest.global_step);
        let (step, total) = self.ledger.as_ref().map_or((newest, u64::MAX), |ledger| {
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
        let how = match outcome {
            Outcome::Finished { .. } => "finished",
            _ => "stopped",
        };
        self.flush();
        self.log.push(LogEntry::Ended {
            how: how.to_string(),
            global_step: step,
        });
        self.conclusion = Some(Box::new((event, outcome)));
        self.phase = Phase::Concluding;
    }

    /// The log has the end: everybody is told.
    pub(super) fn concluded(&mut self) {
        if let Some(conclusion) = self.conclusion.take() {
            let (event, outcome) = *conclusion;
            self.send_to_all(v1::End {
                error: String::new(),
            });
            self.emit(event);
            self.end(outcome);
        }
    }

    /// The end with an error: everybody is told at once; a commit under way may still count. Whoever is
    /// deposed tells nobody: the workers have another coordinator.
    pub(super) fn fail(&mut self, failure: Failure) {
        if matches!(self.phase, Phase::Failing(_) | Phase::Ended) {
            return;
        }
        if failure.kind == FailureKind::Deposed {
            let message = failure.message;
            self.emit(JobEvent::Error {
                message: message.clone(),
            });
            let refused = v1::Refused {
                reason: "this coordinator does not rule any more".to_string(),
                elsewhere: true,
            };
            self.send_to_all(refused);
            return self.end(Outcome::Deposed { message });
        }
        let error = self.sentence(&failure);
        self.send_to_all(v1::End { error });
        self.failing_until = self.now + LAST_COMMIT;
        self.phase = Phase::Failing(failure);
        self.end_failing_unless_committing();
    }

    pub(super) fn end_failing_unless_committing(&mut self) {
        if matches!(self.phase, Phase::Failing(_)) && !self.checkpoints.is_committing() {
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
        match failure.kind {
            FailureKind::Resumable => format!("{}; {}", failure.message, self.how_to_resume()),
            FailureKind::Final | FailureKind::Deposed => failure.message.clone(),
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
