//! The gRPC client around the session's state machine.
//!
//! It lives on a thread of its own, so that heartbeats go out whatever the training thread does.

use std::hash::{BuildHasher, RandomState};
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use perennial_proto::dial::{Address, DialError, words_of};
use perennial_proto::v1::coordinator_client::CoordinatorClient;
use perennial_proto::v1::{Hello, WorkerMessage};
use perennial_proto::{MAX_MESSAGE_BYTES, VERSION};
use perennial_secure::Security;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;

use super::machine::{Config, Effect, Event, Session};
use super::{Command, Report};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a coordinator may take to open the stream.
const OPEN_TIMEOUT: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(100);
/// How long the last reports may take to leave once the training is done.
const FLUSH: Duration = Duration::from_secs(2);

/// With whom a session is, and how patient it is.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where coordinators may be: `http://HOST:PORT`, `https://HOST:PORT`, or `HOST:PORT`.
    pub coordinators: Vec<String>,
    /// How they are spoken with.
    pub security: Security,
    /// The numerics class of this process.
    pub numerics: String,
    pub threads: u32,
    /// How long to go on without a coordinator, once there was one.
    pub patience: Duration,
    /// The name that a pool gave this worker before; empty the first time.
    pub worker: String,
}

/// Why a session cannot even begin.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error("no coordinator's address is given; name at least one")]
    NoCoordinator,
    #[error(transparent)]
    Address(#[from] DialError),
    #[error("cannot start the session's thread")]
    Thread(#[from] std::io::Error),
}

/// The training's end of a session. Dropping it lets what was sent leave, then ends the session.
#[derive(Debug)]
pub struct SessionHandle {
    commands: std_mpsc::Receiver<Command>,
    reporter: Reporter,
    thread: Option<JoinHandle<()>>,
}

/// Sends reports; any thread may hold one.
#[derive(Debug, Clone)]
pub struct Reporter(UnboundedSender<Outgoing>);

#[derive(Debug)]
enum Outgoing {
    Report(Report),
    /// The training is done: nothing follows.
    Done,
}

// === impl Reporter ===

impl Reporter {
    /// Never blocks. A report to a session that is over goes nowhere: [`SessionHandle::recv`] says so.
    pub fn send(&self, report: Report) {
        let _ = self.0.send(Outgoing::Report(report));
    }
}

/// Begins a session on a thread of its own. Coordinators that are not there yet are tried for ten
/// seconds; then [`Command::Exit`] says so.
pub fn connect(options: Options) -> Result<SessionHandle, SessionError> {
    let (deliver, commands) = std_mpsc::channel();
    let (reporter, session) = attach(options, move |command| drop(deliver.send(command)))?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = std::thread::Builder::new()
        .name("session".into())
        .spawn(move || runtime.block_on(session))?;
    Ok(SessionHandle {
        commands,
        reporter,
        thread: Some(thread),
    })
}

/// A session on the runtime that the caller drives its future with, as one of many. It is over when the
/// future is; dropping that breaks it off. `deliver` must not block.
pub fn attach(
    options: Options,
    deliver: impl FnMut(Command) + Send + 'static,
) -> Result<(Reporter, impl Future<Output = ()> + Send + 'static), SessionError> {
    if options.coordinators.is_empty() {
        return Err(SessionError::NoCoordinator);
    }
    let mut urls = Vec::new();
    for url in &options.coordinators {
        let address = Address::parse(url, &options.security)?;
        urls.push(address.to_string());
    }
    let config = Config {
        urls,
        hello: Hello {
            version: VERSION.into(),
            numerics: options.numerics,
            threads: options.threads,
            worker: options.worker,
            incarnation: RandomState::new().hash_one(std::process::id()),
            job: String::new(),
        },
        patience: options.patience,
    };
    let (reporter, reports) = unbounded_channel();
    let session = drive(config, options.security, reports, deliver);
    Ok((Reporter(reporter), session))
}

// === impl SessionHandle ===

impl SessionHandle {
    /// Waits for the next command. After the last one this is [`Command::Exit`].
    pub fn recv(&self) -> Command {
        self.commands.recv().unwrap_or_else(|_| over())
    }

    /// The next command if there is one already.
    pub fn try_recv(&self) -> Option<Command> {
        match self.commands.try_recv() {
            Ok(command) => Some(command),
            Err(std_mpsc::TryRecvError::Empty) => None,
            Err(std_mpsc::TryRecvError::Disconnected) => Some(over()),
        }
    }

    /// See [`Reporter::send`].
    pub fn send(&self, report: Report) {
        self.reporter.send(report);
    }

    /// A sender for another thread.
    pub fn reporter(&self) -> Reporter {
        self.reporter.clone()
    }
}

impl Drop for SessionHandle {
    fn drop(&mut self) {
        let _ = self.reporter.0.send(Outgoing::Done);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn over() -> Command {
    Command::Exit(Err("the session with the coordinator is over".into()))
}

/// What comes from a stream: streams are numbered, and only the newest one is listened to.
type Numbered = (u64, Event);

async fn drive(
    config: Config,
    security: Security,
    mut reports: UnboundedReceiver<Outgoing>,
    mut deliver: impl FnMut(Command) + Send,
) {
    let clock = Instant::now();
    let (mut session, mut effects) = Session::new(config, Duration::ZERO);
    let (inbox, mut incoming) = unbounded_channel::<Numbered>();
    let mut outgoing = None;
    // Dropping it breaks its stream off.
    let mut streams = JoinSet::new();
    let mut newest = 0;
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        for effect in effects {
            match effect {
                Effect::Open { url } => {
                    newest += 1;
                    let (sender, messages) = unbounded_channel();
                    outgoing = Some(sender);
                    streams = JoinSet::new();
                    let (security, inbox) = (security.clone(), inbox.clone());
                    streams.spawn(exchange(url, security, messages, newest, inbox));
                }
                Effect::Send(message) => {
                    if let Some(outgoing) = &outgoing {
                        let _ = outgoing.send(message);
                    }
                }
                Effect::Deliver(command) => deliver(command),
                Effect::Close => {
                    outgoing = None;
                    if !session.is_ended() {
                        // What it still says is not heard.
                        newest += 1;
                        streams.abort_all();
                    }
                }
                Effect::Warn(message) => tracing::warn!("{message}"),
            }
        }
        if session.is_ended() {
            break;
        }
        let event = tokio::select! {
            Some((number, event)) = incoming.recv() => {
                if number != newest {
                    effects = Vec::new();
                    continue;
                }
                event
            }
            report = reports.recv() => match report {
                Some(Outgoing::Report(report)) => Event::Report(report),
                Some(Outgoing::Done) | None => break,
            },
            _ = ticks.tick() => Event::Tick,
        };
        effects = session.handle(clock.elapsed(), event);
    }
    drop(outgoing);
    let _ = timeout(FLUSH, async {
        while streams.join_next().await.is_some() {}
    })
    .await;
}

/// Opens the stream and turns what comes in, and its end, into events.
async fn exchange(
    url: String,
    security: Security,
    messages: UnboundedReceiver<WorkerMessage>,
    number: u64,
    inbox: UnboundedSender<Numbered>,
) {
    let tell = |event| drop(inbox.send((number, event)));
    let opened = async {
        let channel = Address::parse(&url, &security)
            .map_err(|error| error.to_string())?
            .connect(&security, CONNECT_TIMEOUT)
            .await
            .map_err(|error| error.to_string())?;
        CoordinatorClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .session(UnboundedReceiverStream::new(messages))
            .await
            .map_err(|status| words_of(&status))
    };
    let opened = timeout(OPEN_TIMEOUT, opened).await;
    let mut incoming = match opened {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(cause)) => return tell(Event::OpenFailed(cause)),
        Err(_) => {
            let seconds = OPEN_TIMEOUT.as_secs();
            return tell(Event::OpenFailed(format!("no answer within {seconds} s")));
        }
    };
    tell(Event::Opened);
    let end = loop {
        match incoming.message().await {
            Ok(Some(message)) => tell(Event::Received(message)),
            Ok(None) => break String::new(),
            Err(status) => break words_of(&status),
        }
    };
    tell(Event::Closed(end));
}
