//! The queue with a log that keeps what it is given, jobs that obey, and workers that come and go by chance.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use perennial_proto::v1::Hello;
use proptest::prelude::*;

use super::*;
use crate::log::LogRecord;

const TICK: Duration = Duration::from_millis(100);

/// Everything around a queue.
struct Bench {
    queue: Queue,
    now: Duration,
    log: Vec<LogRecord<QueueEntry>>,
    /// Running jobs, with the workers that they want.
    jobs: BTreeMap<String, u32>,
    /// Connected workers and whose they are.
    owners: BTreeMap<ConnectionId, Option<String>>,
    names: BTreeMap<ConnectionId, String>,
    /// Jobs that were told to stop, and workers that they were told to let go.
    stopping: BTreeSet<String>,
    leaving: BTreeSet<String>,
    checked: usize,
    answers: Vec<Result<(), Refusal>>,
    next: ConnectionId,
}

// === impl Bench ===

impl Bench {
    fn new() -> Self {
        Self::with_log(Vec::new())
    }

    fn with_log(log: Vec<LogRecord<QueueEntry>>) -> Self {
        let config = Config {
            version: "1".into(),
            address: "here:1".into(),
            writer: format!("writer {}", log.len()),
            log: log.clone(),
        };
        let (queue, effects) = Queue::new(config, Duration::ZERO).unwrap();
        let mut bench = Self {
            queue,
            now: Duration::ZERO,
            log,
            jobs: BTreeMap::new(),
            owners: BTreeMap::new(),
            names: BTreeMap::new(),
            stopping: BTreeSet::new(),
            leaving: BTreeSet::new(),
            checked: 0,
            answers: Vec::new(),
            next: 0,
        };
        bench.carry_out(effects);
        bench
    }

    fn event(&mut self, event: Event) {
        let effects = self.queue.handle(self.now, event);
        self.carry_out(effects);
        self.check();
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut answers = Vec::new();
        for effect in effects {
            match effect {
                Effect::AppendLog { position, record } => {
                    assert_eq!(position, self.log.len() as u64);
                    self.log.push(*record);
                    answers.push(Event::LogAppended);
                }
                Effect::Answer(_, answer) => self.answers.push(answer),
                Effect::Wait(connection, worker) => {
                    self.names.insert(connection, worker);
                }
                Effect::Hand {
                    connection,
                    job,
                    worker,
                } => {
                    let owner = self.owners.get_mut(&connection).expect("it is there");
                    assert_eq!(*owner, None, "{worker} serves somebody already");
                    assert!(self.jobs.contains_key(&job), "{job} does not run");
                    *owner = Some(job);
                    self.names.insert(connection, worker);
                }
                Effect::Run { job, workers, .. } => {
                    assert!(!self.jobs.contains_key(&job), "{job} runs already");
                    let queued = self.queue.job(&job).expect("it is in the queue");
                    let least = queued.job.submission.min_workers;
                    self.jobs.insert(job.clone(), workers.unwrap_or(least));
                    answers.push(Event::Ready(job));
                }
                Effect::Share { job, workers } => drop(self.jobs.insert(job, workers)),
                Effect::Stop { job, .. } => drop(self.stopping.insert(job)),
                Effect::Drain { worker, .. } => drop(self.leaving.insert(worker)),
                Effect::Dismiss(connection) | Effect::Close(connection) => {
                    self.owners.remove(&connection);
                }
                Effect::Deposed(message) => panic!("{message}"),
                _ => {}
            }
        }
        answers.into_iter().for_each(|event| self.event(event));
    }

    /// What holds after every event.
    fn check(&mut self) {
        for (job, wanted) in &self.jobs {
            let view = self
                .queue
                .job(job)
                .expect("a job that runs is in the queue");
            let least = view.job.submission.min_workers;
            // A lower maximum is told a moment later.
            let most = view.job.submission.max_workers;
            assert!(
                (least..=most).contains(wanted),
                "{job} wants {wanted}: {view:?}"
            );
        }
        if self.queue.log.is_busy() {
            // It is written, and not heard of yet.
            return;
        }
        if std::mem::replace(&mut self.checked, self.log.len()) == self.log.len() {
            return;
        }
        // One that reads the log knows the same.
        let read = Replayed::of(&self.log).unwrap();
        assert_eq!(read.jobs, self.queue.state.jobs);
    }

    fn pass(&mut self, seconds: u64) {
        for _ in 0..seconds * 10 {
            self.now += TICK;
            let waiting = self.owners.iter().filter(|(_, owner)| owner.is_none());
            let waiting: Vec<ConnectionId> = waiting.map(|(connection, _)| *connection).collect();
            for connection in waiting {
                self.event(Event::Heard(connection));
            }
            self.event(Event::Tick);
            self.obey();
        }
    }

    /// Jobs do as they are told: they let workers go, and end.
    fn obey(&mut self) {
        for job in std::mem::take(&mut self.stopping) {
            self.ends(&job, End::Stopped);
        }
        for worker in std::mem::take(&mut self.leaving) {
            let named = self.names.iter().find(|(_, name)| **name == worker);
            if let Some(connection) = named.map(|(connection, _)| *connection) {
                self.comes_back(connection);
            }
        }
        for (job, wanted) in self.jobs.clone() {
            for connection in self.members(&job).into_iter().skip(wanted as usize) {
                self.comes_back(connection);
            }
        }
    }

    fn ends(&mut self, job: &str, end: End) {
        if self.jobs.remove(job).is_none() {
            return;
        }
        let members = self.members(job);
        self.event(Event::JobEnded(job.to_string(), end));
        for connection in members {
            self.comes_back(connection);
        }
    }

    fn members(&self, job: &str) -> Vec<ConnectionId> {
        let theirs = self.owners.iter();
        let theirs = theirs.filter(|(_, owner)| owner.as_deref() == Some(job));
        theirs.map(|(connection, _)| *connection).collect()
    }

    fn comes(&mut self) -> ConnectionId {
        self.greets(String::new(), String::new())
    }

    fn greets(&mut self, worker: String, job: String) -> ConnectionId {
        self.next += 1;
        self.owners.insert(self.next, None);
        let hello = Hello {
            version: "1".into(),
            numerics: "cpu".into(),
            worker,
            job,
            ..Hello::default()
        };
        self.event(Event::Arrived(self.next, hello));
        self.next
    }

    fn leaves(&mut self, connection: ConnectionId) -> String {
        self.owners.remove(&connection);
        self.event(Event::Left(connection));
        self.names.remove(&connection).unwrap_or_default()
    }

    fn comes_back(&mut self, connection: ConnectionId) {
        let name = self.leaves(connection);
        self.greets(name, String::new());
    }

    fn wish(&mut self, wish: Wish) -> Result<(), Refusal> {
        self.event(Event::Wish(0, wish));
        self.answers.pop().expect("every wish is answered")
    }

    fn submit(&mut self, job: &str, priority: i32, min: u32, max: u32) {
        let submission = Submission {
            job: job.into(),
            priority,
            min_workers: min,
            max_workers: max,
            ..Submission::default()
        };
        self.wish(Wish::Submit(submission)).unwrap();
    }

    /// Jobs with their states and workers.
    fn stands(&self) -> Vec<(String, &'static str, u32)> {
        let jobs = self.queue.jobs().into_iter();
        jobs.map(|it| (it.job.submission.job, it.state, it.workers))
            .collect()
    }
}

fn stands(job: &str, state: &'static str, workers: u32) -> (String, &'static str, u32) {
    (job.to_string(), state, workers)
}

#[test]
fn a_job_of_higher_priority_shrinks_the_others_to_their_least_and_gives_back_what_it_had() {
    let mut bench = Bench::new();
    for _ in 0..4 {
        bench.comes();
    }
    bench.submit("a", 0, 1, 4);
    bench.pass(3);
    assert_eq!(bench.stands(), [stands("a", "running", 4)]);
    bench.submit("b", 5, 2, 4);
    bench.pass(5);
    let expected = [stands("b", "running", 3), stands("a", "running", 1)];
    assert_eq!(bench.stands(), expected);
    bench.ends("b", End::Finished);
    bench.pass(5);
    let expected = [stands("a", "running", 4), stands("b", "finished", 0)];
    assert_eq!(bench.stands(), expected);
}

#[test]
fn a_job_for_which_none_are_left_goes_back_to_the_queue_and_returns_by_itself() {
    let mut bench = Bench::new();
    bench.comes();
    bench.comes();
    bench.submit("low", 0, 1, 2);
    bench.pass(3);
    bench.submit("high", 1, 2, 2);
    bench.pass(5);
    let expected = [stands("high", "running", 2), stands("low", "queued", 0)];
    assert_eq!(bench.stands(), expected);
    let why = bench.queue.job("low").unwrap().reason;
    assert_eq!(
        why,
        "it needs at least 1 worker, and 0 of 2 are left after `high`; it was sent back because job `high` comes first"
    );
    bench.ends("high", End::Finished);
    bench.pass(5);
    assert_eq!(bench.stands()[0], stands("low", "running", 2));
}

#[test]
fn a_coordinator_that_takes_over_goes_on_with_all_jobs_and_moves_nobody_who_comes_back() {
    let mut bench = Bench::new();
    let workers: Vec<ConnectionId> = (0..3).map(|_| bench.comes()).collect();
    bench.submit("a", 1, 1, 1);
    bench.submit("b", 0, 1, 2);
    bench.submit("c", -1, 1, 2);
    bench.pass(3);
    let before = bench.stands();
    let of = |job: &str| {
        let members = bench.members(job).into_iter();
        members
            .map(|it| bench.names[&it].clone())
            .collect::<Vec<_>>()
    };
    let (a, b, c) = (of("a"), of("b"), of("c"));
    assert_eq!((a.len(), b.len(), c.len(), workers.len()), (1, 1, 1, 3));
    let mut next = Bench::with_log(bench.log.clone());
    assert_eq!(next.jobs.len(), 3);
    // The lowest comes first.
    for (job, names) in [("c", c), ("b", b), ("a", a)] {
        for name in names {
            next.greets(name, job.to_string());
        }
        next.pass(1);
        assert!(next.stopping.is_empty());
    }
    next.pass(10);
    assert_eq!(next.stands(), before);
    assert_eq!(next.log.len(), bench.log.len() + 1, "{:?}", next.log);
}

#[test]
fn a_worker_that_a_job_does_not_keep_is_not_handed_to_it_again_at_once() {
    let mut bench = Bench::new();
    let worker = bench.comes();
    bench.submit("a", 0, 1, 1);
    assert_eq!(bench.members("a"), [worker]);
    bench.comes_back(worker);
    bench.pass(5);
    assert_eq!(bench.members("a").len(), 0);
    bench.pass(6);
    assert_eq!(bench.members("a").len(), 1);
}

#[test]
fn a_worker_that_is_to_leave_leaves_under_the_next_coordinator_too() {
    let mut bench = Bench::new();
    let worker = bench.comes();
    bench.submit("a", 0, 1, 1);
    let name = bench.names[&worker].clone();
    let drain = |worker: &str| Wish::Drain {
        job: None,
        worker: worker.to_string(),
    };
    bench.wish(drain(&name)).unwrap();
    let written = bench.log.len();
    bench.wish(drain(&name)).unwrap();
    assert_eq!(bench.log.len(), written, "asked twice, it is done once");

    // The one that asked the job is gone before the job has let the worker go.
    let mut next = Bench::with_log(bench.log.clone());
    next.greets(name.clone(), "a".into());
    assert!(next.leaving.contains(&name), "the job hears it again");
    next.pass(1);
    assert!(next.owners.is_empty(), "it was told to leave for good");
    let told = next.log.last().map(|record| record.entry.clone());
    assert_eq!(told, Some(QueueEntry::Dismissed { worker: name }));
}

#[test]
fn what_operators_wish_is_refused_with_what_to_do_where_it_cannot_be() {
    let mut bench = Bench::new();
    bench.submit("a", 0, 2, 4);
    let refused = |bench: &mut Bench, wish| bench.wish(wish).unwrap_err().to_string();
    let stop = |job: &str| Wish::Stop {
        job: job.into(),
        now: false,
    };
    let resume = |job: &str| Wish::Resume {
        job: job.into(),
        priority: None,
        workers: None,
    };
    let scale = |workers| Wish::Scale {
        job: "a".into(),
        workers,
    };
    assert!(refused(&mut bench, stop("b")).contains("`b` is not in the queue"));
    assert!(refused(&mut bench, resume("a")).contains("waits in the queue already"));
    assert!(refused(&mut bench, scale(1)).contains("fewer than `elastic.min_workers`"));
    assert!(refused(&mut bench, scale(5)).contains("more than job `a` can use"));
    bench.wish(stop("a")).unwrap();
    assert_eq!(bench.stands(), [stands("a", "stopped", 0)]);
    assert!(refused(&mut bench, stop("a")).contains("`perennial resume a`"));
    bench.wish(resume("a")).unwrap();
    assert_eq!(bench.stands(), [stands("a", "queued", 0)]);
    let drain = Wish::Drain {
        job: None,
        worker: "w7".into(),
    };
    assert!(refused(&mut bench, drain).contains("no worker `w7`; it has none at all"));
}

/// What can happen.
#[derive(Debug, Clone)]
enum Chance {
    Comes,
    Leaves(usize),
    Submit(i32, u32, u32),
    Stop(usize, bool),
    Resume(usize),
    Scale(usize, u32),
    Prioritize(usize, i32),
    Drain(usize),
    Ends(usize, bool),
    Pass(u64),
    TakeOver,
}

fn chance() -> impl Strategy<Value = Chance> {
    prop_oneof![
        4 => Just(Chance::Comes),
        2 => (0usize..8).prop_map(Chance::Leaves),
        3 => (-1..2, 1u32..4, 0u32..3).prop_map(|(p, min, more)| Chance::Submit(p, min, min + more)),
        1 => (0usize..8, any::<bool>()).prop_map(|(job, now)| Chance::Stop(job, now)),
        1 => (0usize..8).prop_map(Chance::Resume),
        1 => (0usize..8, 1u32..5).prop_map(|(job, workers)| Chance::Scale(job, workers)),
        1 => (0usize..8, -1..2).prop_map(|(job, priority)| Chance::Prioritize(job, priority)),
        1 => (0usize..8).prop_map(Chance::Drain),
        2 => (0usize..8, any::<bool>()).prop_map(|(job, fails)| Chance::Ends(job, fails)),
        3 => (0u64..3).prop_map(Chance::Pass),
        1 => Just(Chance::TakeOver),
    ]
}

fn happens(bench: &mut Bench, chance: &Chance, number: usize) {
    let job = |number: usize| format!("job{number}");
    let nth = |bench: &Bench, number: usize| bench.owners.keys().nth(number).copied();
    match chance {
        Chance::Comes => drop(bench.comes()),
        Chance::Leaves(worker) => {
            if let Some(connection) = nth(bench, *worker) {
                bench.leaves(connection);
            }
        }
        Chance::Submit(priority, min, max) => bench.submit(&job(number), *priority, *min, *max),
        Chance::Stop(of, now) => {
            let (job, now) = (job(*of), *now);
            let _ = bench.wish(Wish::Stop { job, now });
        }
        Chance::Resume(of) => {
            let _ = bench.wish(Wish::Resume {
                job: job(*of),
                priority: None,
                workers: None,
            });
        }
        Chance::Scale(of, workers) => {
            let (job, workers) = (job(*of), *workers);
            let _ = bench.wish(Wish::Scale { job, workers });
        }
        Chance::Prioritize(of, priority) => {
            let (job, priority) = (job(*of), *priority);
            let _ = bench.wish(Wish::Prioritize { job, priority });
        }
        Chance::Drain(worker) => {
            let worker = format!("w{worker}");
            let _ = bench.wish(Wish::Drain { job: None, worker });
        }
        Chance::Ends(of, fails) => {
            let end = match fails {
                true => End::Failed("it had to".into()),
                false => End::Finished,
            };
            bench.ends(&job(*of), end);
        }
        Chance::Pass(seconds) => bench.pass(*seconds),
        Chance::TakeOver => {
            let mut next = Bench::with_log(std::mem::take(&mut bench.log));
            for (connection, owner) in &bench.owners {
                let name = bench.names.get(connection).cloned().unwrap_or_default();
                next.greets(name, owner.clone().unwrap_or_default());
            }
            *bench = next;
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// After any history, once nothing more happens: every job that can run does, with its share, and no
    /// worker waits that a job could use.
    #[test]
    fn whatever_happens_the_shares_are_what_they_should_be_in_the_end(
        chances in proptest::collection::vec(chance(), 1..40)
    ) {
        let mut bench = Bench::new();
        for (number, chance) in chances.iter().enumerate() {
            happens(&mut bench, chance, number);
        }
        bench.pass(200);
        let workers = bench.owners.len() as u32;
        let pool = BTreeMap::from([("cpu".to_string(), workers)]);
        let pool = if workers == 0 { BTreeMap::new() } else { pool };
        let jobs = bench.queue.jobs();
        let active: Vec<_> = jobs.iter().filter(|job| ["queued", "running"].contains(&job.state)).collect();
        let claims: Vec<share::Claim> = active.iter().map(|view| share::Claim {
            job: &view.job.submission.job,
            priority: view.job.submission.priority,
            min: view.job.submission.min_workers,
            max: view.job.max_workers(),
            numerics: view.job.submission.numerics.as_deref(),
        }).collect();
        let shares = share::share(&claims, &pool);
        let stuck: u32 = active.iter().zip(&shares)
            .filter(|(_, share)| share.workers() == 0)
            .map(|(view, _)| view.workers)
            .sum();
        for (view, share) in active.iter().zip(&shares) {
            if share.workers() > 0 {
                prop_assert_eq!(view.state, "running");
                if stuck == 0 {
                    prop_assert_eq!(view.workers, share.workers(), "{:?}", view);
                }
            } else if view.state == "queued" {
                prop_assert!(!view.reason.is_empty(), "{:?}", view);
            }
        }
    }
}
