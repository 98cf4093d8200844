//! The coordinator as a server: gRPC, storage and the clock around the [`machine`](crate::machine).
//!
//! One task owns the machine. Storage is two other tasks that work through what the machine asks for, the
//! log apart from everything else, and answer with events: a slow store never holds up the workers, and a
//! checkpoint never holds up a change of membership.

mod admission;
mod dashboard;
mod door;
mod metrics;
mod origin;
mod pace;
mod port;
mod queue;
mod service;
mod standby;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::routing::get;
use perennial_plan::Spec;
use perennial_proto::v1::coordinator_server::CoordinatorServer;
use perennial_proto::v1::{Refused, StatusReply};
use perennial_proto::{LOG_CONTEXT, MAX_MESSAGE_BYTES, VERSION};
use perennial_store::Store;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::service::Routes;
use tracing::field::Empty;
use tracing::{Instrument, Span};

use crate::machine::{Config, ConnectionId, Effect, Event, Machine, Outcome};
use crate::storage::{Opened, Storage};
use crate::{CoordinatorError, JobEvent, Told};
use dashboard::Dashboard;
pub use dashboard::ReadJob;
use metrics::Metrics;
pub use metrics::metrics_in_words;
pub use port::Access;
use port::Port;
pub use queue::{QueueConfig, QueueEvent, serve_queue};
use service::{Answer, Incoming, Outgoing, Service};
use standby::{Turn, wait_for_turn};

const TICK: Duration = Duration::from_millis(100);
/// How long workers may take to hear the end, and storage to finish what it has begun.
const FAREWELL: Duration = Duration::from_secs(3);
/// How often a ruling coordinator looks whether another one has written to the log.
const LOOK: Duration = Duration::from_secs(2);

/// What a coordinator serves, and where.
#[derive(Debug)]
pub struct ServeConfig {
    /// `HOST:PORT`; port 0 takes a free one.
    pub listen: String,
    /// Where others reach it, `HOST:PORT`; none: where it listens.
    pub advertise: Option<String>,
    pub spec: Spec,
    pub access: Access,
    /// The wanted number of workers, unless the job's log has another.
    pub workers: u32,
    pub store: Store,
    /// How workers reach the store, as in `--store`.
    pub store_url: String,
    /// Go on from the newest checkpoint. Without it a job that has one is left alone.
    pub resume: bool,
    /// Rule only while nobody else does.
    pub standby: bool,
    /// The command that goes on with the job, for messages.
    pub resume_command: String,
    /// The command that trains this again, for the report.
    pub command: Option<String>,
}

/// Runs a job to its end. `bound` gets the address once workers can connect; `stop` becoming true ends
/// the run at the next step, with a checkpoint.
pub async fn serve(
    config: ServeConfig,
    bound: oneshot::Sender<SocketAddr>,
    events: UnboundedSender<JobEvent>,
    stop: watch::Receiver<bool>,
) -> Result<Outcome, CoordinatorError> {
    let job = config.spec.name.as_str();
    let context = tracing::error_span!(target: LOG_CONTEXT, "coordinator", job, generation = Empty);
    let serving = serve_job(config, bound, events, stop);
    serving.instrument(context).await
}

async fn serve_job(
    config: ServeConfig,
    bound: oneshot::Sender<SocketAddr>,
    events: UnboundedSender<JobEvent>,
    mut stop: watch::Receiver<bool>,
) -> Result<Outcome, CoordinatorError> {
    let port = Port::open(&config.listen, &config.access).await?;
    let first = if config.standby {
        None
    } else {
        Some(Storage::open(&config).await?)
    };
    let (inbox, mut incoming) = unbounded_channel();
    let address = port.told(config.advertise.as_deref());
    let _ = bound.send(port.local);
    let (shut_down, shutting_down) = oneshot::channel::<()>();
    let service = Service::new(inbox.clone(), &config.spec.name);
    let scraped = service.clone();
    let dashboard = Dashboard::of_job(service.clone(), &config);
    let grpc = CoordinatorServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let routes = Routes::new(grpc)
        .into_axum_router()
        .route("/metrics", get(move || scraped.metrics()))
        .merge(dashboard.routes());
    let advertised = config.advertise.as_deref();
    let serving = port.serve(routes, Some(&config.spec.name), advertised, async {
        let _ = shutting_down.await;
    });

    let court = Court {
        config: &config,
        address,
        inbox,
        events: &events,
        shared: false,
    };
    let outcome = court.reign(first, &mut incoming, &mut stop).await;
    let _ = shut_down.send(());
    let _ = timeout(FAREWELL, serving).await;
    outcome
}

/// What a coordinator needs to rule, once or again and again.
struct Court<'a> {
    config: &'a ServeConfig,
    address: String,
    inbox: UnboundedSender<Incoming>,
    events: &'a UnboundedSender<JobEvent>,
    /// Other jobs want the workers that this one does not.
    shared: bool,
}

// === impl Court ===

impl Court<'_> {
    /// Rules until the run ends. A standby that is deposed waits for its turn again.
    async fn reign(
        &self,
        mut opened: Option<Opened>,
        incoming: &mut UnboundedReceiver<Incoming>,
        stop: &mut watch::Receiver<bool>,
    ) -> Result<Outcome, CoordinatorError> {
        loop {
            let opened = match opened.take() {
                Some(opened) => opened,
                None => match wait_for_turn(self.config, incoming, self.events, stop).await? {
                    Turn::Rule(opened) => *opened,
                    Turn::Over(outcome) => return Ok(outcome),
                },
            };
            match self.rule(opened, incoming, stop, None).await? {
                Outcome::Deposed { message } if self.config.standby => {
                    tracing::warn!("{message}; it is a standby again");
                }
                outcome => return Ok(outcome),
            }
        }
    }

    /// `claimed` hears that the term is in the log.
    async fn rule(
        &self,
        opened: Opened,
        incoming: &mut UnboundedReceiver<Incoming>,
        stop: &mut watch::Receiver<bool>,
        claimed: Option<oneshot::Sender<()>>,
    ) -> Result<Outcome, CoordinatorError> {
        let clock = Instant::now();
        let Opened {
            storage,
            resume,
            log,
            replayed,
        } = opened;
        let config = self.config;
        let machine = Machine::new(
            Config {
                spec: config.spec.clone(),
                wanted: config.workers,
                version: VERSION.into(),
                store_url: config.store_url.clone(),
                address: self.address.clone(),
                resume,
                writer: writer(),
                log,
                resume_command: config.resume_command.clone(),
                shared: self.shared,
            },
            Duration::ZERO,
        );
        let (machine, effects) = machine.map_err(perennial_store::StoreError::from)?;
        let (orders, work) = unbounded_channel();
        let (entries, log_work) = unbounded_channel();
        let (journal, told) = unbounded_channel();
        let working = [
            (storage.clone()).work_through(work, None, reply_to(self.inbox.clone())),
            (storage.clone()).work_through(log_work, Some(replayed), reply_to(self.inbox.clone())),
        ]
        .map(|work| tokio::spawn(work.in_current_span()));
        let keeping = storage.clone().keep_events(machine.term(), told);
        let keeping = tokio::spawn(keeping.in_current_span());
        let mut government = Government {
            machine,
            clock,
            outgoing: HashMap::new(),
            orders,
            entries,
            journal,
            events: self.events.clone(),
            metrics: Metrics::new(&config.spec.name),
            store: config.store.clone(),
            claimed,
        };
        let outcome = government
            .govern(effects, &storage, &self.inbox, incoming, stop)
            .await;
        drop(government);
        let _ = timeout(FAREWELL, async {
            for task in working {
                let _ = task.await;
            }
            let _ = keeping.await;
        })
        .await;
        Ok(outcome)
    }
}

/// The task that owns the machine. Dropping the ways to the workers at the end lets each hear its last
/// message and then closes its stream.
struct Government {
    machine: Machine,
    clock: Instant,
    outgoing: HashMap<ConnectionId, Outgoing>,
    orders: UnboundedSender<Effect>,
    entries: UnboundedSender<Effect>,
    journal: UnboundedSender<Told>,
    events: UnboundedSender<JobEvent>,
    metrics: Metrics,
    store: Store,
    claimed: Option<oneshot::Sender<()>>,
}

// === impl Government ===

impl Government {
    async fn govern(
        &mut self,
        effects: Vec<Effect>,
        storage: &Storage,
        inbox: &UnboundedSender<Incoming>,
        incoming: &mut UnboundedReceiver<Incoming>,
        stop: &mut watch::Receiver<bool>,
    ) -> Outcome {
        if let Some(outcome) = self.carry_out(effects) {
            return outcome;
        }
        let mut ticks = tokio::time::interval(TICK);
        let mut looks = tokio::time::interval(LOOK);
        let mut may_stop = true;
        loop {
            let (event, answer) = tokio::select! {
                biased;
                Some(came) = incoming.recv() => match self.receive(came) {
                    Some(received) => received,
                    None => continue,
                },
                stopped = stop.wait_for(|stop| *stop), if may_stop => {
                    may_stop = false;
                    match stopped {
                        Ok(_) => (Event::StopRequested, None),
                        // Nobody is left who could ask for a stop.
                        Err(_) => continue,
                    }
                }
                _ = ticks.tick() => (Event::Tick, None),
                _ = looks.tick() => {
                    self.look_for_rivals(storage, inbox);
                    continue;
                }
            };
            let effects = self.machine.handle(self.clock.elapsed(), event);
            if let Some(claimed) = self.claimed.take_if(|_| self.machine.has_claimed()) {
                let _ = claimed.send(());
            }
            if let Some(answer) = answer {
                let _ = answer.send(Ok(self.machine.status()));
            }
            if let Some(outcome) = self.carry_out(effects) {
                return outcome;
            }
        }
    }

    /// What the machine has to know of what came, and who wants to hear where the job stands after it.
    fn receive(&mut self, came: Incoming) -> Option<(Event, Option<Answer>)> {
        match came {
            Incoming::Connected(connection, way) => {
                self.outgoing.insert(connection, way);
                Some((Event::Connected(connection), None))
            }
            Incoming::Event(event) => {
                if let Event::Disconnected(connection, _) = &event {
                    self.outgoing.remove(connection);
                }
                Some((event, None))
            }
            Incoming::Status(answer) => {
                let _ = answer.send(self.machine.status());
                None
            }
            Incoming::Metrics(answer) => {
                let retries = self.store.retries();
                let _ = answer.send(self.metrics.text(&self.machine.status(), retries));
                None
            }
            Incoming::Wish(event, answer) => {
                if let Some(refusal) = self.why_not(&event) {
                    let _ = answer.send(Err(refusal));
                    return None;
                }
                Some((event, Some(answer)))
            }
        }
    }

    fn why_not(&self, wish: &Event) -> Option<Status> {
        let status = self.machine.status();
        match wish {
            Event::DrainRequested(name) => {
                let known = status.workers.iter().any(|worker| worker.worker == *name);
                let names: Vec<&str> = (status.workers.iter())
                    .map(|worker| worker.worker.as_str())
                    .collect();
                (!known).then(|| {
                    Status::not_found(format!(
                        "job `{}` has no worker `{name}`; it has `{}`",
                        status.job,
                        names.join("`, `")
                    ))
                })
            }
            Event::ScaleRequested(wanted) => self
                .machine
                .why_not_scale(*wanted)
                .map(Status::invalid_argument),
            _ => None,
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) -> Option<Outcome> {
        for effect in effects {
            match effect {
                Effect::Send(connection, message) => {
                    if let Some(way) = self.outgoing.get(&connection) {
                        let _ = way.send(Ok(message));
                    }
                }
                Effect::Close(connection) => drop(self.outgoing.remove(&connection)),
                Effect::Emit(event) => {
                    if let JobEvent::Started { generation, .. } = &event {
                        Span::current().record("generation", generation);
                    }
                    self.metrics.take(&event);
                    let _ = self.journal.send(Told::now(event.clone()));
                    let _ = self.events.send(event);
                }
                Effect::End(outcome) => return Some(outcome),
                entry @ Effect::AppendLog { .. } => drop(self.entries.send(entry)),
                order => drop(self.orders.send(order)),
            }
        }
        None
    }

    /// Another coordinator that wrote to the log is noticed even when there is nothing to write.
    fn look_for_rivals(&self, storage: &Storage, inbox: &UnboundedSender<Incoming>) {
        let (storage, inbox) = (storage.clone(), inbox.clone());
        let (position, term) = (self.machine.log_position(), self.machine.term());
        let look = async move {
            match storage.has_later_term(position, term).await {
                Ok(true) => drop(inbox.send(Incoming::Event(Event::LogRaceLost))),
                Ok(false) => {}
                Err(error) => tracing::debug!(%error, "the log cannot be looked at now"),
            }
        };
        tokio::spawn(look.in_current_span());
    }
}

/// Turns a visitor away while this coordinator does not rule.
fn turn_away(came: Incoming, job: &str) {
    match came {
        Incoming::Connected(_, way) => {
            let refused = Refused {
                reason: "this coordinator is a standby".to_string(),
                elsewhere: true,
            };
            let _ = way.send(Ok(refused.into()));
        }
        Incoming::Status(answer) => drop(answer.send(standby(job))),
        Incoming::Metrics(answer) => drop(answer.send(Metrics::new(job).text(&standby(job), 0))),
        Incoming::Wish(_, answer) => {
            let _ = answer.send(Err(Status::unavailable("this coordinator is a standby")));
        }
        Incoming::Event(_) => {}
    }
}

fn standby(job: &str) -> StatusReply {
    StatusReply {
        job: job.to_string(),
        phase: "standby".to_string(),
        reason: "another coordinator rules".to_string(),
        ..StatusReply::default()
    }
}

/// Where this machine itself reaches a listener at `address`.
pub fn reachable(mut address: SocketAddr) -> String {
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address.to_string()
}

/// A name that no other coordinator has.
fn writer() -> String {
    let started = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    format!("{}-{}", std::process::id(), started.as_nanos())
}

fn reply_to(inbox: UnboundedSender<Incoming>) -> impl Fn(Event) + Send + 'static {
    move |event| {
        let _ = inbox.send(Incoming::Event(event));
    }
}
