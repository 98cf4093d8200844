//! The gRPC client around the session's state machine.
//!
//! It lives on a thread of its own, so that heartbeats go out whatever the training thread does.

use std::error::Error;
use std::sync::mpsc as std_mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use perennial_proto::MAX_MESSAGE_BYTES;
use perennial_proto::v1::coordinator_client::CoordinatorClient;
use perennial_proto::v1::{Hello, WorkerMessage};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Endpoint;

use super::machine::{Effect, Event, Session};
use super::{Report, SessionEvent};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const TICK: Duration = Duration::from_millis(100);
/// How long the last reports may take to leave once the training is done.
const FLUSH: Duration = Duration::from_secs(2);

/// Why a session cannot even begin.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(
        "the coordinator's address `{url}` is not valid: {cause}; write it as `http://HOST:PORT`"
    )]
    InvalidUrl { url: String, cause: String },
    #[error("cannot start the session's thread")]
    Thread(#[from] std::io::Error),
}

/// The training's end of a session. Dropping it lets what was sent leave, then ends the session.
#[derive(Debug)]
pub struct SessionHandle {
    events: std_mpsc::Receiver<SessionEvent>,
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

/// Begins a session with the coordinator at `url` (`http://HOST:PORT`, or `HOST:PORT`). A coordinator
/// that is not there yet is tried for ten seconds; then [`SessionEvent::Lost`] says so.
pub fn connect(url: &str, hello: Hello) -> Result<SessionHandle, SessionError> {
    let url = if url.contains("://") {
        url.to_string()
    } else {
        format!("http://{url}")
    };
    let endpoint = Endpoint::from_shared(url.clone())
        .map_err(|error| SessionError::InvalidUrl {
            url: url.clone(),
            cause: root_cause(&error),
        })?
        .connect_timeout(CONNECT_TIMEOUT);
    let (deliver, events) = std_mpsc::channel();
    let (reporter, reports) = unbounded_channel();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let thread = std::thread::Builder::new()
        .name("session".into())
        .spawn(move || runtime.block_on(drive(url, endpoint, hello, reports, deliver)))?;
    Ok(SessionHandle {
        events,
        reporter: Reporter(reporter),
        thread: Some(thread),
    })
}

// === impl SessionHandle ===

impl SessionHandle {
    /// Waits for the next event. After the last one this is [`SessionEvent::Lost`].
    pub fn recv(&self) -> SessionEvent {
        self.events.recv().unwrap_or_else(|_| over())
    }

    /// The next event if there is one already.
    pub fn try_recv(&self) -> Option<SessionEvent> {
        match self.events.try_recv() {
            Ok(event) => Some(event),
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

fn over() -> SessionEvent {
    SessionEvent::Lost("the session with the coordinator is over".into())
}

async fn drive(
    url: String,
    endpoint: Endpoint,
    hello: Hello,
    mut reports: UnboundedReceiver<Outgoing>,
    deliver: std_mpsc::Sender<SessionEvent>,
) {
    let clock = Instant::now();
    let (mut session, mut effects) = Session::new(url, hello, Duration::ZERO);
    let (inbox, mut incoming) = unbounded_channel();
    let mut outgoing = None;
    let mut stream = None;
    let mut ticks = tokio::time::interval(TICK);
    loop {
        for effect in effects {
            match effect {
                Effect::Open => {
                    let (sender, messages) = unbounded_channel();
                    outgoing = Some(sender);
                    let opening = exchange(endpoint.clone(), messages, inbox.clone());
                    stream = Some(tokio::spawn(opening));
                }
                Effect::Send(message) => {
                    if let Some(outgoing) = &outgoing {
                        let _ = outgoing.send(message);
                    }
                }
                Effect::Deliver(event) => drop(deliver.send(event)),
                Effect::Close => outgoing = None,
            }
        }
        if session.is_ended() {
            break;
        }
        let event = tokio::select! {
            Some(event) = incoming.recv() => event,
            report = reports.recv() => match report {
                Some(Outgoing::Report(report)) => Event::Report(report),
                Some(Outgoing::Done) | None => break,
            },
            _ = ticks.tick() => Event::Tick,
        };
        effects = session.handle(clock.elapsed(), event);
    }
    drop(outgoing);
    if let Some(stream) = stream {
        let _ = timeout(FLUSH, stream).await;
    }
}

/// Opens the stream and turns what comes in, and its end, into events.
async fn exchange(
    endpoint: Endpoint,
    messages: UnboundedReceiver<WorkerMessage>,
    inbox: UnboundedSender<Event>,
) {
    let opened = async {
        let channel = endpoint
            .connect()
            .await
            .map_err(|error| root_cause(&error))?;
        CoordinatorClient::new(channel)
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .session(UnboundedReceiverStream::new(messages))
            .await
            .map_err(|status| status.message().to_string())
    };
    let mut incoming = match opened.await {
        Ok(response) => response.into_inner(),
        Err(cause) => {
            let _ = inbox.send(Event::OpenFailed(cause));
            return;
        }
    };
    let _ = inbox.send(Event::Opened);
    let end = loop {
        match incoming.message().await {
            Ok(Some(message)) => drop(inbox.send(Event::Received(message))),
            Ok(None) => break String::new(),
            Err(status) => break status.message().to_string(),
        }
    };
    let _ = inbox.send(Event::Closed(end));
}

/// The innermost cause: tonic's own errors say only `transport error`.
fn root_cause(error: &dyn Error) -> String {
    let mut cause = error;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}
