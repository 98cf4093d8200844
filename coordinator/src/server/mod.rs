//! The coordinator as a server: gRPC, storage and the clock around the [`machine`](crate::machine).
//!
//! One task owns the machine. Storage is another task that works through what the machine asks for,
//! in that order, and answers with events, so a slow store never holds up the workers.

mod service;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use perennial_plan::Spec;
use perennial_proto::v1::coordinator_server::CoordinatorServer;
use perennial_proto::{MAX_MESSAGE_BYTES, VERSION};
use perennial_store::Store;
use tokio::net::TcpListener;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;

use crate::machine::{Config, ConnectionId, Effect, Event, Machine, Outcome};
use crate::storage::{Opened, Storage};
use crate::{CoordinatorError, JobEvent};
use service::{Incoming, Outgoing, Service};

const TICK: Duration = Duration::from_millis(100);
/// How long workers may take to hear the end, and storage to finish what it has begun.
const FAREWELL: Duration = Duration::from_secs(3);

/// What a coordinator serves, and where.
#[derive(Debug)]
pub struct ServeConfig {
    /// `HOST:PORT`; port 0 takes a free one.
    pub listen: String,
    pub spec: Spec,
    /// The run begins with so many workers.
    pub workers: u32,
    pub store: Store,
    /// How workers reach the store, as in `--store`.
    pub store_url: String,
    /// Go on from the newest checkpoint. Without it a job that has one is left alone.
    pub resume: bool,
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
    mut stop: watch::Receiver<bool>,
) -> Result<Outcome, CoordinatorError> {
    let listener = listen(&config.listen).await?;
    let Opened {
        storage,
        resume,
        generation,
        log_position,
    } = Storage::open(&config).await?;
    let machine = Machine::new(
        Config {
            spec: config.spec,
            expected_workers: config.workers,
            version: VERSION.into(),
            store_url: config.store_url,
            resume,
            generation,
            writer: writer(),
            log_position,
            resume_command: config.resume_command,
        },
        Duration::ZERO,
    );

    let (inbox, incoming) = unbounded_channel();
    let (orders, work) = unbounded_channel();
    let storing = tokio::spawn(storage.work_through(work, reply_to(inbox.clone())));
    if let Ok(address) = listener.local_addr() {
        let _ = bound.send(address);
    }
    let (shut_down, shutting_down) = oneshot::channel::<()>();
    let service =
        CoordinatorServer::new(Service::new(inbox)).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let serving = tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(
                TcpIncoming::from(listener).with_nodelay(Some(true)),
                async {
                    let _ = shutting_down.await;
                },
            ),
    );

    let outcome = govern(machine, incoming, &orders, &events, &mut stop).await;
    drop(orders);
    let _ = shut_down.send(());
    let _ = timeout(FAREWELL, async {
        let _ = storing.await;
        let _ = serving.await;
    })
    .await;
    Ok(outcome)
}

async fn listen(address: &str) -> Result<TcpListener, CoordinatorError> {
    TcpListener::bind(address).await.map_err(|source| {
        let address = address.to_string();
        match source.kind() {
            std::io::ErrorKind::AddrInUse => CoordinatorError::AddressInUse { address },
            _ => CoordinatorError::Listen { address, source },
        }
    })
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

/// Owns the machine until the run ends. Dropping the ways to the workers at the end lets each hear its
/// last message and then closes its stream.
async fn govern(
    mut machine: Machine,
    mut incoming: UnboundedReceiver<Incoming>,
    storage: &UnboundedSender<Effect>,
    events: &UnboundedSender<JobEvent>,
    stop: &mut watch::Receiver<bool>,
) -> Outcome {
    let clock = Instant::now();
    let mut outgoing: HashMap<ConnectionId, Outgoing> = HashMap::new();
    let mut ticks = tokio::time::interval(TICK);
    let mut may_stop = true;
    loop {
        let event = tokio::select! {
            biased;
            Some(came) = incoming.recv() => match came {
                Incoming::Connected(connection, way) => {
                    outgoing.insert(connection, way);
                    Event::Connected(connection)
                }
                Incoming::Event(event) => event,
                Incoming::Status(answer) => {
                    let _ = answer.send(machine.status());
                    continue;
                }
            },
            stopped = stop.wait_for(|stop| *stop), if may_stop => {
                may_stop = false;
                match stopped {
                    Ok(_) => Event::StopRequested,
                    // Nobody is left who could ask for a stop.
                    Err(_) => continue,
                }
            }
            _ = ticks.tick() => Event::Tick,
        };
        if let Event::Disconnected(connection, _) = &event {
            outgoing.remove(connection);
        }
        for effect in machine.handle(clock.elapsed(), event) {
            match effect {
                Effect::Send(connection, message) => {
                    if let Some(way) = outgoing.get(&connection) {
                        let _ = way.send(Ok(message));
                    }
                }
                Effect::Close(connection) => drop(outgoing.remove(&connection)),
                Effect::Emit(event) => drop(events.send(event)),
                Effect::End(outcome) => return outcome,
                order => drop(storage.send(order)),
            }
        }
    }
}
