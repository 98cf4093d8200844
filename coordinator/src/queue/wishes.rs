//! What operators wish: decided on what the log has, answered once it is durable.

use super::{Effect, How, Queue, QueueEntry, Refusal, State, Submission, Ticket, Wish};

impl Queue {
    pub(super) fn decide(&mut self, ticket: Ticket, wish: Wish) {
        match self.entry_for(wish) {
            Ok(Some(entry)) => {
                self.log.push(entry);
                self.answering = Some(ticket);
            }
            Ok(None) => self.effects.push(Effect::Answer(ticket, Ok(()))),
            Err(refusal) => self.effects.push(Effect::Answer(ticket, Err(refusal))),
        }
    }

    /// What the wish puts into the log: nothing, if all is so already or done at once.
    fn entry_for(&mut self, wish: Wish) -> Result<Option<QueueEntry>, Refusal> {
        match wish {
            Wish::Submit(submission) => {
                let job = &submission.job;
                if let Some(there) = self.state.job(job) {
                    let state = in_words(there.state);
                    return Err(Refusal::Exists(format!(
                        "job `{job}` exists and {state}; give the new one another name with `--set name=...`"
                    )));
                }
                check_priority(submission.priority)?;
                check_workers(&submission, submission.workers)?;
                Ok(Some(QueueEntry::Submitted(submission)))
            }
            Wish::Resume {
                job,
                priority,
                workers,
            } => self.resume(job, priority, workers).map(Some),
            Wish::Prioritize { job, priority } => {
                check_priority(priority)?;
                let queued = self.active(&job)?;
                let changes = queued.priority != priority;
                Ok(changes.then_some(QueueEntry::Prioritized { job, priority }))
            }
            Wish::Scale { job, workers } => {
                let queued = self.active(&job)?;
                check_workers(queued, Some(workers))?;
                let changes = queued.workers != Some(workers);
                Ok(changes.then_some(QueueEntry::Scaled { job, workers }))
            }
            Wish::Stop { job, now } => {
                self.active(&job)?;
                let asked = self.state.job(&job).and_then(|job| job.stop);
                // At once is more than at the next step.
                let changes = asked.is_none_or(|before| now && !before);
                Ok(changes.then_some(QueueEntry::Stopped { job, now }))
            }
            Wish::Drain { job, worker } => self.drain(job.as_deref(), worker),
        }
    }

    fn resume(
        &self,
        job: String,
        priority: Option<i32>,
        workers: Option<u32>,
    ) -> Result<QueueEntry, Refusal> {
        let queued = self.known(&job)?;
        match queued.state {
            State::Over(How::Finished) => Err(Refusal::Impossible(format!(
                "job `{job}` is finished: all its epochs are done; nothing is left to resume"
            ))),
            State::Over(_) => {
                check_priority(priority.unwrap_or_default())?;
                check_workers(&queued.submission, workers)?;
                // With another priority it is as if it were submitted anew.
                match (priority, workers) {
                    (None, None) => Ok(QueueEntry::Resumed { job }),
                    _ => Ok(QueueEntry::Submitted(Submission {
                        priority: priority.unwrap_or(queued.submission.priority),
                        workers: workers.or(queued.submission.workers),
                        ..queued.submission.clone()
                    })),
                }
            }
            state => Err(Refusal::Impossible(format!(
                "job `{job}` {} already",
                in_words(state)
            ))),
        }
    }

    fn drain(&mut self, job: Option<&str>, worker: String) -> Result<Option<QueueEntry>, Refusal> {
        let theirs = |it: &super::Worker| job.is_none() || it.job.as_deref() == job;
        let found = self.workers.iter();
        let found = found
            .filter(|(_, it)| it.name == worker && theirs(it))
            .map(|(connection, it)| (*connection, it.job.clone()))
            .next();
        let Some((connection, serves)) = found else {
            let names = self.workers.values().filter(|it| theirs(it));
            let names: Vec<&str> = names.map(|it| it.name.as_str()).collect();
            let who = job.map_or("the pool".to_string(), |job| format!("job `{job}`"));
            let has = match names.as_slice() {
                [] => "it has none at all".to_string(),
                names => format!("it has `{}`", names.join("`, `")),
            };
            return Err(Refusal::Unknown(format!(
                "{who} has no worker `{worker}`; {has}"
            )));
        };
        match serves {
            // What is asked twice is done once.
            Some(_) if self.state.drained.contains(&worker) => Ok(None),
            Some(_) => Ok(Some(QueueEntry::Drained { worker })),
            None => {
                self.workers.remove(&connection);
                self.effects.push(Effect::Dismiss(connection));
                Ok(None)
            }
        }
    }

    /// The log has it that this worker is to leave: the job that it serves lets it go, and it hears the rest when it
    /// comes to the pool.
    pub(super) fn let_go(&mut self, worker: &str) {
        let found = self.workers.iter().find(|(_, it)| it.name == worker);
        let Some((connection, it)) = found else {
            return;
        };
        match it.job.clone() {
            Some(job) => self.effects.push(Effect::Drain {
                job,
                worker: worker.to_string(),
            }),
            None => {
                let connection = *connection;
                self.workers.remove(&connection);
                self.effects.push(Effect::Dismiss(connection));
                self.dismissed.push_back(worker.to_string());
            }
        }
    }

    fn known(&self, job: &str) -> Result<&super::Queued, Refusal> {
        self.state.job(job).ok_or_else(|| {
            Refusal::Unknown(format!(
                "job `{job}` is not in the queue; `perennial status` lists what is"
            ))
        })
    }

    /// The job, if it runs or waits.
    fn active(&self, job: &str) -> Result<&Submission, Refusal> {
        let queued = self.known(job)?;
        match queued.state {
            State::Over(How::Finished) => Err(Refusal::Impossible(format!(
                "job `{job}` is finished already"
            ))),
            State::Over(how) => Err(Refusal::Impossible(format!(
                "job `{job}` has {} already; `perennial resume {job}` goes on with it",
                how.as_str()
            ))),
            _ => Ok(&queued.submission),
        }
    }
}

/// The highest priority, and the lowest below zero.
const MOST: i32 = 1_000_000;

fn check_priority(priority: i32) -> Result<(), Refusal> {
    if (-MOST..=MOST).contains(&priority) {
        return Ok(());
    }
    Err(Refusal::Impossible(format!(
        "priority `{priority}` is beyond {MOST}; choose a smaller one"
    )))
}

/// Whether the job can have at most so many workers.
fn check_workers(job: &Submission, workers: Option<u32>) -> Result<(), Refusal> {
    let Some(workers) = workers else {
        return Ok(());
    };
    if workers < job.min_workers {
        return Err(Refusal::Impossible(format!(
            "{workers} workers are fewer than `elastic.min_workers`, which is {}",
            job.min_workers
        )));
    }
    if workers > job.max_workers {
        return Err(Refusal::Impossible(format!(
            "{workers} workers are more than job `{}` can use: `elastic.max_workers` and `train.slots` let it have {}",
            job.job, job.max_workers
        )));
    }
    Ok(())
}

fn in_words(state: State) -> &'static str {
    match state {
        State::Queued => "waits in the queue",
        State::Running => "runs",
        State::Over(How::Finished) => "is finished",
        State::Over(How::Stopped) => "was stopped",
        State::Over(How::Failed) => "has failed",
    }
}
