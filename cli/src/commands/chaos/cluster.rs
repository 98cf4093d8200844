//! Coordinators and workers of one run, and what they tell.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, bail};
use perennial_coordinator::JobEvent;
use perennial_coordinator::log::{LogEntry, LogRecord};
use perennial_store::{Job, Store};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::Instant;

use super::process::{Process, Told, Uid};
use super::relay::{Dialer, Relay, Wires};
use super::seen::{Seen, Workforce};
use super::sockets::owner;

/// Seconds for which a worker goes on without a coordinator.
const PATIENCE: &str = "60";
/// How long all may take to end after the job's end.
const WIND_UP: Duration = Duration::from_secs(15);
/// More workers than that which end by themselves say that something is wrong.
const UNPLANNED: usize = 20;
/// Below those that systems give to connections by themselves.
const FIRST_PORT: u16 = 20_000;
const PORTS: u16 = 10_000;

/// What is the same in all runs.
#[derive(Debug)]
pub struct Recipe {
    pub job: PathBuf,
    pub name: String,
    /// `--data`, `--set` and the like.
    pub options: Vec<String>,
    /// Where what each process says is kept, in a folder for each run.
    pub logs: Option<PathBuf>,
}

/// What differs from run to run.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Its name.
    pub run: &'static str,
    pub store_url: String,
    pub workers: u32,
    /// Of each worker.
    pub threads: usize,
    pub standby: bool,
    /// Of the environment of every process.
    pub variables: Vec<(String, String)>,
}

/// The processes of a run. Dropping it kills them.
pub struct Cluster<'a> {
    recipe: &'a Recipe,
    setup: Setup,
    begun: Instant,
    job: Job,
    log: Vec<LogRecord>,
    wires: Wires,
    /// The system's numbers of the workers' processes.
    processes: Arc<Mutex<BTreeMap<Uid, u32>>>,
    /// Where coordinators listen, the first one and the standby.
    addresses: [String; 2],
    /// The standby is still to be started: without a log it would take the job for itself.
    awaits_standby: bool,
    pub coordinators: Vec<Coordinator>,
    pub workers: Vec<Worker>,
    /// Whose name is whose.
    names: BTreeMap<String, Uid>,
    next_uid: Uid,
    events: UnboundedSender<Told>,
    told: UnboundedReceiver<Told>,
    pub seen: Vec<Seen>,
    pub workforce: Workforce,
    /// What workers said that ended though nobody wanted it.
    pub unplanned: Vec<String>,
}

pub struct Coordinator {
    pub process: Process,
    /// Its place among the addresses.
    place: usize,
    /// It said that another one rules.
    pub waits: bool,
}

pub struct Worker {
    pub process: Process,
    /// Where others reach its collective: tells it from other workers in the log.
    address: String,
    /// Stopped or cut off.
    pub is_out: bool,
    _relays: [Relay; 4],
}

// === impl Cluster ===

impl<'a> Cluster<'a> {
    /// Starts a coordinator and the workers. The standby follows as soon as the coordinator rules.
    pub async fn start(recipe: &'a Recipe, setup: Setup) -> anyhow::Result<Self> {
        let store = Store::open(&setup.store_url)?;
        if let Some(logs) = &recipe.logs {
            let logs = logs.join(setup.run);
            std::fs::create_dir_all(&logs)
                .with_context(|| format!("cannot create `{}`", logs.display()))?;
        }
        let (events, told) = unbounded_channel();
        let mut cluster = Self {
            job: store.job(&recipe.name)?,
            recipe,
            begun: Instant::now(),
            log: Vec::new(),
            wires: Wires::new(),
            processes: Arc::default(),
            addresses: [free_address()?, free_address()?],
            awaits_standby: setup.standby,
            coordinators: Vec::new(),
            workers: Vec::new(),
            names: BTreeMap::new(),
            next_uid: 0,
            events,
            told,
            seen: Vec::new(),
            workforce: Workforce::default(),
            unplanned: Vec::new(),
            setup,
        };
        cluster.start_coordinator(0, false)?;
        for _ in 0..cluster.setup.workers {
            cluster.start_worker().await?;
        }
        Ok(cluster)
    }

    /// Since the run's beginning.
    pub fn now(&self) -> Duration {
        self.begun.elapsed()
    }

    fn uid(&mut self) -> Uid {
        self.next_uid += 1;
        self.next_uid
    }

    fn start_coordinator(&mut self, place: usize, standby: bool) -> anyhow::Result<()> {
        let mut arguments = words(&["--json", "coordinator"]);
        arguments.push(self.recipe.job.to_string_lossy().into_owned());
        arguments.extend(words(&["--listen", &self.addresses[place]]));
        arguments.extend(words(&["--store", &self.setup.store_url]));
        arguments.extend(words(&["--workers", &self.setup.workers.to_string()]));
        arguments.extend(self.recipe.options.iter().cloned());
        if standby {
            arguments.push("--standby".to_string());
        }
        let process = self.start_process(&arguments)?;
        self.coordinators.push(Coordinator {
            process,
            place,
            waits: false,
        });
        Ok(())
    }

    /// Starts a worker, behind relays of its own.
    pub async fn start_worker(&mut self) -> anyhow::Result<()> {
        let uid = self.next_uid + 1;
        let (sums, copies) = (free_address()?, free_address()?);
        let wires = &self.wires;
        let dialer = self.dialer();
        let relays = [
            Relay::from_worker(wires, uid, self.addresses[0].clone()).await?,
            Relay::from_worker(wires, uid, self.addresses[1].clone()).await?,
            Relay::to_worker(wires, uid, sums.clone(), dialer.clone()).await?,
            Relay::to_worker(wires, uid, copies.clone(), dialer).await?,
        ];
        let [first, second, to_sums, to_copies] = relays.each_ref().map(Relay::address);
        let mut arguments = words(&["worker", "--coordinator", &format!("{first},{second}")]);
        arguments.extend(words(&["--threads", &self.setup.threads.to_string()]));
        arguments.extend(words(&["--patience", PATIENCE]));
        arguments.extend(words(&["--collective", &format!("{sums}={to_sums}")]));
        arguments.extend(words(&["--replica", &format!("{copies}={to_copies}")]));
        let process = self.start_process(&arguments)?;
        if let Some(id) = process.id() {
            self.processes().insert(uid, id);
        }
        self.workers.push(Worker {
            process,
            address: to_sums,
            is_out: false,
            _relays: relays,
        });
        self.workforce.add(self.now());
        Ok(())
    }

    fn start_process(&mut self, arguments: &[String]) -> anyhow::Result<Process> {
        let uid = self.uid();
        let logs = self
            .recipe
            .logs
            .as_ref()
            .map(|logs| logs.join(self.setup.run));
        let variables = &self.setup.variables;
        Process::start(
            uid,
            arguments,
            variables,
            logs.as_deref(),
            self.events.clone(),
        )
    }

    fn processes(&self) -> std::sync::MutexGuard<'_, BTreeMap<Uid, u32>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn dialer(&self) -> Dialer {
        let processes = self.processes.clone();
        Arc::new(move |address: SocketAddr| {
            let processes = processes.lock().unwrap_or_else(PoisonError::into_inner);
            let dialed = owner(address, processes.values().copied())?;
            let found = processes.iter().find(|(_, process)| **process == dialed);
            found.map(|(uid, _)| *uid)
        })
    }

    // --- what is told -------------------------------------------------------------------------------

    /// Waits for what a coordinator tells next. Nothing is lost where the waiting is broken off.
    pub async fn told(&mut self) -> Told {
        let told = self.told.recv().await;
        told.expect("the cluster holds a sender itself")
    }

    /// Takes in what was told, and looks up whom it is about.
    pub async fn take(&mut self, told: Told) -> anyhow::Result<&Seen> {
        let Told { at, from, event } = told;
        let about = match &event {
            JobEvent::WorkerJoined {
                worker, address, ..
            } => {
                let known = self.workers.iter().find(|known| known.address == *address);
                if let Some(known) = known {
                    self.names.insert(worker.clone(), known.process.uid);
                }
                if std::mem::take(&mut self.awaits_standby) {
                    self.start_coordinator(1, true)?;
                }
                Vec::new()
            }
            JobEvent::WorkerLost { worker, .. } => {
                self.names.get(worker).copied().into_iter().collect()
            }
            JobEvent::Started { generation, .. } => self.members_of(*generation).await?,
            JobEvent::Waiting { .. } => {
                let mut coordinators = self.coordinators.iter_mut();
                if let Some(it) = coordinators.find(|it| it.process.uid == from) {
                    it.waits = true;
                }
                Vec::new()
            }
            _ => Vec::new(),
        };
        if !matches!(event, JobEvent::Waiting { .. }) {
            let mut coordinators = self.coordinators.iter_mut();
            if let Some(it) = coordinators.find(|it| it.process.uid == from) {
                it.waits = false;
            }
        }
        self.seen.push(Seen {
            at: at.saturating_duration_since(self.begun),
            from,
            event,
            about,
        });
        Ok(self.seen.last().expect("one was just pushed"))
    }

    /// The members of a generation that has begun; those whose process is gone are left out.
    async fn members_of(&mut self, id: u64) -> anyhow::Result<Vec<Uid>> {
        self.read_log().await?;
        let generations = self.log.iter().filter_map(|record| match &record.entry {
            LogEntry::Generation { generation, .. } => Some(generation),
            _ => None,
        });
        let Some(generation) = generations.clone().find(|generation| generation.id == id) else {
            bail!("generation {id} has begun and is not in the log");
        };
        let worker = |address: &str| {
            let mut workers = self.workers.iter();
            workers.find(|worker| worker.address == *address)
        };
        let members = generation.members.iter();
        Ok(members
            .filter_map(|member| Some(worker(&member.address)?.process.uid))
            .collect())
    }

    /// How many workers there should be.
    pub fn wanted(&self) -> usize {
        self.setup.workers as usize
    }

    /// The job's log so far.
    pub async fn read_log(&mut self) -> anyhow::Result<&[LogRecord]> {
        let entries: Vec<LogRecord> = self.job.read_log(self.log.len() as u64).await?;
        self.log.extend(entries);
        Ok(&self.log)
    }

    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The members at work that are neither stopped nor cut off, in the order in which they were started.
    pub fn sound_members(&self) -> Vec<Uid> {
        let started = self.seen.iter().rev();
        let mut started = started.filter(|seen| matches!(seen.event, JobEvent::Started { .. }));
        let members = started.next().map_or(&[][..], |seen| &seen.about);
        let sound = self.workers.iter().filter(|worker| !worker.is_out);
        sound
            .map(|worker| worker.process.uid)
            .filter(|uid| members.contains(uid))
            .collect()
    }

    /// The coordinator that rules, if another one waits in its back.
    pub fn replaceable_coordinator(&self) -> Option<Uid> {
        let ruling = self.coordinators.iter().find(|it| !it.waits)?;
        let waiting = self.coordinators.iter().filter(|it| it.waits).count();
        (waiting == 1 && self.coordinators.len() == 2).then_some(ruling.process.uid)
    }

    // --- what is done to them -----------------------------------------------------------------------

    pub fn worker(&mut self, uid: Uid) -> Option<&mut Worker> {
        let mut workers = self.workers.iter_mut();
        workers.find(|worker| worker.process.uid == uid)
    }

    /// Whether the kill is what ended it.
    pub async fn kill_worker(&mut self, uid: Uid) -> bool {
        let found = self.workers.iter().position(|it| it.process.uid == uid);
        let Some(index) = found else {
            return false;
        };
        self.workforce.remove(self.now());
        let mut worker = self.workers.remove(index);
        self.processes().remove(&uid);
        worker.process.kill().await
    }

    /// Takes a worker away with its process still there: stopped, or cut off.
    pub async fn take_out(&mut self, uid: Uid, by_signal: bool) -> anyhow::Result<()> {
        if by_signal {
            let worker = self.worker(uid).context("the worker is gone")?;
            worker.process.signal("STOP").await?;
        } else {
            self.wires.cut(uid);
        }
        let now = self.now();
        if let Some(worker) = self.worker(uid) {
            worker.is_out = true;
            self.workforce.remove(now);
        }
        Ok(())
    }

    /// Lets it go on.
    pub async fn bring_back(&mut self, uid: Uid, by_signal: bool) -> anyhow::Result<()> {
        self.wires.mend(uid);
        let now = self.now();
        let Some(worker) = self.worker(uid).filter(|worker| worker.is_out) else {
            return Ok(());
        };
        worker.is_out = false;
        if by_signal {
            worker.process.signal("CONT").await?;
        }
        self.workforce.add(now);
        Ok(())
    }

    /// Kills a coordinator; its place, where that is what ended it.
    pub async fn kill_coordinator(&mut self, uid: Uid) -> Option<usize> {
        let found = (self.coordinators.iter()).position(|it| it.process.uid == uid)?;
        let mut coordinator = self.coordinators.remove(found);
        coordinator
            .process
            .kill()
            .await
            .then_some(coordinator.place)
    }

    /// Starts a standby in the place of a coordinator that was killed.
    pub fn start_standby(&mut self, place: usize) -> anyhow::Result<()> {
        self.start_coordinator(place, true)
    }

    /// Looks for processes that ended by themselves. Workers are gone for good; a coordinator ends well
    /// after the job's end only. Whether one has.
    pub fn look_for_ends(&mut self) -> anyhow::Result<bool> {
        let mut over = false;
        for coordinator in &mut self.coordinators {
            let Some(status) = coordinator.process.ended() else {
                continue;
            };
            if !status.success() {
                let words = coordinator.process.last_words();
                bail!("a coordinator ended by itself with {status}: {words}");
            }
            over = true;
        }
        let now = self.now();
        let mut index = 0;
        while index < self.workers.len() {
            let worker = &mut self.workers[index];
            let Some(status) = worker.process.ended() else {
                index += 1;
                continue;
            };
            let gone = self.workers.remove(index);
            let uid = gone.process.uid;
            self.wires.mend(uid);
            self.processes().remove(&uid);
            if !gone.is_out {
                self.workforce.remove(now);
            }
            if !status.success() {
                let words = gone.process.last_words();
                self.unplanned.push(format!("{status}: {words}"));
            }
        }
        if self.unplanned.len() > UNPLANNED {
            let last = &self.unplanned[UNPLANNED];
            bail!("{UNPLANNED} workers ended by themselves, the last one with {last}");
        }
        Ok(over)
    }

    /// Waits until everybody has ended, and ends who has not.
    pub async fn wind_up(mut self) -> anyhow::Result<Self> {
        for uid in self
            .workers
            .iter()
            .map(|it| it.process.uid)
            .collect::<Vec<_>>()
        {
            self.bring_back(uid, true).await?;
        }
        let deadline = Instant::now() + WIND_UP;
        while Instant::now() < deadline {
            let coordinators = self.coordinators.iter_mut();
            let workers = self.workers.iter_mut();
            let mut processes = coordinators
                .map(|it| &mut it.process)
                .chain(workers.map(|it| &mut it.process));
            if processes.all(|process| process.ended().is_some()) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.end().await;
        Ok(self)
    }

    /// Kills everybody that is left.
    pub async fn end(&mut self) {
        for mut coordinator in self.coordinators.drain(..) {
            coordinator.process.kill().await;
        }
        for mut worker in self.workers.drain(..) {
            worker.process.kill().await;
        }
    }

    /// The last words of all that still run, to tell why nothing goes on.
    pub fn last_words(&self) -> String {
        let coordinators = self.coordinators.iter().map(|it| &it.process);
        let all = coordinators.chain(self.workers.iter().map(|it| &it.process));
        let words = all.map(|it| format!("process {}: {}", it.uid, it.last_words()));
        words.collect::<Vec<_>>().join("; ")
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| word.to_string()).collect()
}

/// An address that nobody listens at, and that the system gives to nobody by itself.
fn free_address() -> anyhow::Result<String> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let offset = (std::process::id() % u32::from(PORTS)) as u16;
    for _ in 0..PORTS {
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let port = FIRST_PORT + offset.wrapping_add(number) % PORTS;
        let address = format!("127.0.0.1:{port}");
        if TcpListener::bind(&address).is_ok() {
            return Ok(address);
        }
    }
    bail!("no port from {FIRST_PORT} on is free for a relay")
}
