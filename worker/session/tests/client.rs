//! The client over real connections, with a coordinator that says what a test has it say.

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use perennial_plan::Spec;
use perennial_proto::v1::coordinator_server::{Coordinator, CoordinatorServer};
use perennial_proto::v1::worker_message::Kind;
use perennial_proto::v1::{
    CoordinatorMessage, DrainReply, DrainRequest, End, Ready, Refused, ScaleReply, ScaleRequest,
    StatusReply, StatusRequest, StopReply, StopRequest, Welcome, WorkerMessage,
};
use perennial_secure::Security;
use perennial_session::{Command, Options, Report, SessionError, SessionHandle, connect};
use tokio::runtime::Runtime;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

const DEADLINE: Duration = Duration::from_secs(30);

/// A worker's stream as its coordinator has it.
struct Stream {
    hears: Receiver<Kind>,
    says: UnboundedSender<Result<CoordinatorMessage, Status>>,
}

/// Hands every stream to the test.
struct Puppet(Sender<Stream>);

#[tonic::async_trait]
impl Coordinator for Puppet {
    type SessionStream = UnboundedReceiverStream<Result<CoordinatorMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (says, messages) = unbounded_channel();
        let (heard, hears) = channel();
        let _ = self.0.send(Stream { hears, says });
        let mut incoming = request.into_inner();
        tokio::spawn(async move {
            while let Ok(Some(message)) = incoming.message().await {
                if let Some(kind) = message.kind {
                    let _ = heard.send(kind);
                }
            }
        });
        Ok(Response::new(UnboundedReceiverStream::new(messages)))
    }

    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusReply>, Status> {
        Err(Status::unimplemented("a puppet"))
    }

    async fn scale(&self, _: Request<ScaleRequest>) -> Result<Response<ScaleReply>, Status> {
        Err(Status::unimplemented("a puppet"))
    }

    async fn drain(&self, _: Request<DrainRequest>) -> Result<Response<DrainReply>, Status> {
        Err(Status::unimplemented("a puppet"))
    }

    async fn stop(&self, _: Request<StopRequest>) -> Result<Response<StopReply>, Status> {
        Err(Status::unimplemented("a puppet"))
    }
}

/// A coordinator on a free port, and the streams that workers open to it.
struct Place {
    address: SocketAddr,
    streams: Receiver<Stream>,
    runtime: Runtime,
}

// === impl Place ===

impl Place {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let (sender, streams) = channel();
        let entered = runtime.enter();
        let incoming = TcpIncoming::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        drop(entered);
        let address = incoming.local_addr().unwrap();
        runtime.spawn(
            Server::builder()
                .add_service(CoordinatorServer::new(Puppet(sender)))
                .serve_with_incoming(incoming),
        );
        Self {
            address,
            streams,
            runtime,
        }
    }

    fn stream(&self) -> Stream {
        self.streams.recv_timeout(DEADLINE).expect("no stream")
    }

    /// As if its machine had lost power: nothing is said any more.
    fn dies(self) {
        self.runtime.shutdown_background();
    }
}

// === impl Stream ===

impl Stream {
    /// The next message that is no heartbeat.
    fn hears(&self) -> Kind {
        loop {
            match self.hears.recv_timeout(DEADLINE).expect("no message") {
                Kind::Heartbeat(_) => {}
                kind => return kind,
            }
        }
    }

    fn says(&self, message: impl Into<CoordinatorMessage>) {
        let message = CoordinatorMessage {
            term: 1,
            ..message.into()
        };
        self.says.send(Ok(message)).expect("the stream is open");
    }
}

fn welcome() -> Welcome {
    Welcome {
        worker: "w1".into(),
        spec_json: serde_json::to_string(&Spec::default()).unwrap(),
        store_url: "store".into(),
    }
}

fn session(places: &[&Place]) -> SessionHandle {
    let coordinators = places.iter().map(|place| place.address.to_string());
    connect(Options {
        coordinators: coordinators.collect(),
        security: Security::default(),
        numerics: "none".into(),
        threads: 1,
        patience: DEADLINE,
        worker: String::new(),
    })
    .unwrap()
}

#[test]
fn a_session_outlives_its_coordinator_and_says_everything_to_the_next_one() {
    let (first, second) = (Place::new(), Place::new());
    let session = session(&[&first, &second]);
    let stream = first.stream();
    let Kind::Hello(hello) = stream.hears() else {
        panic!("no greeting");
    };
    stream.says(welcome());
    assert!(matches!(session.recv(), Command::Prepare { .. }));
    session.send(Report::Ready(Ready::default()));
    assert_eq!(stream.hears(), Kind::Ready(Ready::default()));

    first.dies();
    let stream = second.stream();
    let Kind::Hello(again) = stream.hears() else {
        panic!("no greeting");
    };
    assert_eq!(
        (again.worker, again.incarnation),
        ("w1".into(), hello.incarnation)
    );
    stream.says(welcome());
    assert_eq!(stream.hears(), Kind::Ready(Ready::default()));
    stream.says(End::default());
    assert_eq!(session.recv(), Command::Exit(Ok(())));
}

#[test]
fn a_standby_sends_a_worker_to_the_next_address() {
    let (standby, ruling) = (Place::new(), Place::new());
    let session = session(&[&standby, &ruling]);
    let stream = standby.stream();
    stream.says(Refused {
        reason: "a standby".into(),
        elsewhere: true,
    });
    ruling.stream().says(Refused {
        reason: "another version".into(),
        elsewhere: false,
    });
    assert_eq!(
        session.recv(),
        Command::Exit(Err(format!(
            "the coordinator at `http://{}` refused this worker: another version",
            ruling.address
        )))
    );
}

#[test]
fn what_was_said_last_leaves_before_a_session_is_dropped() {
    let place = Place::new();
    let session = session(&[&place]);
    let stream = place.stream();
    assert!(matches!(stream.hears(), Kind::Hello(_)));
    stream.says(welcome());
    assert!(matches!(session.recv(), Command::Prepare { .. }));
    for _ in 0..100 {
        session.send(Report::Ready(Ready::default()));
    }
    // The coordinator closes the stream once the worker has.
    let closing = std::thread::spawn(move || {
        let heard: Vec<Kind> = (0..100).map(|_| stream.hears()).collect();
        drop(stream);
        heard.len()
    });
    drop(session);
    assert_eq!(closing.join().unwrap(), 100);
}

#[test]
fn an_address_that_is_none_is_refused_at_once() {
    let options = |coordinators: &[&str]| Options {
        coordinators: coordinators.iter().map(ToString::to_string).collect(),
        security: Security::default(),
        numerics: "none".into(),
        threads: 1,
        patience: DEADLINE,
        worker: String::new(),
    };
    let error = connect(options(&["http://host:port:7"])).unwrap_err();
    assert!(
        error.to_string().contains("`http://host:port:7`"),
        "{error}"
    );
    let error = connect(options(&[])).unwrap_err();
    assert!(matches!(error, SessionError::NoCoordinator));
}
