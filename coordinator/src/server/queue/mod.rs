//! Many jobs behind one address: the shell around the [`queue`](crate::queue).
//!
//! One task owns the queue and every connection that has greeted; it passes on what comes to the job whose the
//! worker is. Each job that runs is a task of its own with the shell of a single one around its machine.

mod desk;
mod front;
mod views;
mod work;

use std::net::SocketAddr;

use axum::routing::get;
use perennial_proto::MAX_MESSAGE_BYTES;
use perennial_proto::rules::SILENCE;
use perennial_proto::v1::coordinator_server::CoordinatorServer;
use perennial_proto::v1::queue_server::QueueServer;
use perennial_proto::v1::{self, StatusReply, WorkerMessage};
use perennial_store::{Store, StoreError};
use serde::Serialize;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};
use tonic::Status;
use tonic::service::Routes;

use super::dashboard::{Dashboard, ReadJob};
use super::service::Outgoing;
use super::standby::{PING, is_alive};
use super::{Access, FAREWELL, Port};
use crate::log::LogRecord;
use crate::machine::ConnectionId;
use crate::queue::{Event, JobView, QueueEntry, Replayed, Wish};
use crate::{CoordinatorError, JobEvent};
use desk::Desk;
use front::Front;

/// The metrics of a queue that has nothing yet.
pub(super) fn metrics_of_none() -> String {
    views::metrics_of(&[], &[])
}

/// What a coordinator of a queue serves, and where.
#[derive(Debug, Clone)]
pub struct QueueConfig {
    /// `HOST:PORT`; port 0 takes a free one.
    pub listen: String,
    /// Where others reach it, `HOST:PORT`; none: where it listens.
    pub advertise: Option<String>,
    pub access: Access,
    pub store: Store,
    /// How workers reach the store, as in `--store`.
    pub store_url: String,
    /// Rule only while nobody else does.
    pub standby: bool,
    /// Reads a job file that comes through the dashboard.
    pub read_job: ReadJob,
}

/// Something that happened, for people and programs.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum QueueEvent {
    /// To the queue: an entry of its log, which exists.
    Queue(QueueEntry),
    /// To a job.
    Job {
        job: String,
        #[serde(flatten)]
        event: JobEvent,
    },
    Warning {
        warning: String,
    },
}

/// What comes to the task that owns the queue.
enum Came {
    /// A worker's first message, and the way to it.
    Greeted(ConnectionId, Box<WorkerMessage>, Outgoing),
    Message(ConnectionId, WorkerMessage),
    Gone(ConnectionId, String),
    Wish(Wish, Answer),
    /// Where a job stands; where the queue does, without a name.
    Status(String, oneshot::Sender<Result<StatusReply, Status>>),
    Jobs(oneshot::Sender<v1::JobsReply>),
    /// For a Prometheus server.
    Metrics(oneshot::Sender<String>),
    Event(Event),
    Told(String, JobEvent),
}

/// The way back to an operator: the job that the wish was about, if it is there.
type Answer = oneshot::Sender<Result<Option<JobView>, Status>>;

/// Serves the queue until `stop` becomes true, which leaves all jobs as they are: the next coordinator goes
/// on with them. `bound` gets the address once workers can connect.
pub async fn serve_queue(
    config: QueueConfig,
    bound: oneshot::Sender<SocketAddr>,
    events: UnboundedSender<QueueEvent>,
    mut stop: watch::Receiver<bool>,
) -> Result<(), CoordinatorError> {
    let port = Port::open(&config.listen, &config.access).await?;
    let (inbox, mut incoming) = unbounded_channel();
    let address = port.told(config.advertise.as_deref());
    let local = port.local;
    let (shut_down, shutting_down) = oneshot::channel::<()>();
    let desk = Desk::new(inbox.clone(), config.store.clone());
    let scraped = desk.clone();
    let dashboard = Dashboard::of_queue(desk.clone(), &config);
    let routes = Routes::new(
        CoordinatorServer::new(desk.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES),
    )
    .add_service(QueueServer::new(desk))
    .into_axum_router()
    .route("/metrics", get(move || scraped.metrics()))
    .merge(dashboard.routes());
    let serving = port.serve(routes, None, config.advertise.as_deref(), async {
        let _ = shutting_down.await;
    });
    let _ = bound.send(local);
    let outcome = tokio::select! {
        outcome = reign(&config, &address, &inbox, &mut incoming, &events) => outcome,
        _ = stop.wait_for(|stop| *stop) => Ok(()),
    };
    let _ = shut_down.send(());
    let _ = timeout(FAREWELL, serving).await;
    outcome
}

/// Rules until another coordinator does. A standby that is deposed waits for its turn again.
async fn reign(
    config: &QueueConfig,
    address: &str,
    inbox: &UnboundedSender<Came>,
    incoming: &mut UnboundedReceiver<Came>,
    events: &UnboundedSender<QueueEvent>,
) -> Result<(), CoordinatorError> {
    loop {
        let Some(log) = wait_for_turn(config, incoming).await? else {
            continue;
        };
        let mut front = Front::new(config, address, inbox, events);
        let deposed = front.rule(log, incoming).await?;
        front.abandon();
        if !config.standby {
            return Err(CoordinatorError::Deposed(deposed));
        }
        tracing::warn!("{deposed}; it is a standby again");
    }
}

/// The log of the queue once this coordinator may claim it. A standby waits until the one that rules is silent,
/// and tells visitors to look elsewhere; nothing when another one was faster.
async fn wait_for_turn(
    config: &QueueConfig,
    incoming: &mut UnboundedReceiver<Came>,
) -> Result<Option<Vec<LogRecord<QueueEntry>>>, CoordinatorError> {
    let store = config.store.queue();
    let mut log: Vec<LogRecord<QueueEntry>> = store.read(0).await?;
    if !config.standby {
        return Ok(Some(log));
    }
    let mut heard = Instant::now();
    let mut pings = tokio::time::interval(PING);
    loop {
        tokio::select! {
            Some(came) = incoming.recv() => turn_away(came),
            _ = pings.tick() => {
                let Ok(entries) = store.read::<LogRecord<QueueEntry>>(log.len() as u64).await else {
                    // Without the store nothing can be taken over.
                    continue;
                };
                let state = Replayed::of(&log).map_err(StoreError::from)?;
                let written = !entries.is_empty();
                log.extend(entries);
                if written || (state.term > 0 && is_alive(&state.address, &config.access.security).await) {
                    heard = Instant::now();
                }
                if state.term == 0 && !written || heard.elapsed() >= SILENCE {
                    let later: Vec<LogRecord<QueueEntry>> = store.read(log.len() as u64).await?;
                    // The question took its time, and another standby may have taken over meanwhile.
                    return Ok(later.is_empty().then_some(log));
                }
            }
        }
    }
}

/// Turns a visitor away while this coordinator does not rule. What is dropped is answered as unavailable.
fn turn_away(came: Came) {
    match came {
        Came::Greeted(_, _, way) => refuse(&way, "this coordinator is a standby", true),
        Came::Status(_, answer) => {
            let _ = answer.send(Ok(StatusReply {
                phase: "standby".into(),
                reason: "another coordinator rules".into(),
                ..StatusReply::default()
            }));
        }
        Came::Wish(_, answer) => {
            let _ = answer.send(Err(Status::unavailable("this coordinator is a standby")));
        }
        _ => {}
    }
}

fn refuse(way: &Outgoing, reason: &str, elsewhere: bool) {
    let reason = reason.to_string();
    let _ = way.send(Ok(v1::Refused { reason, elsewhere }.into()));
}
