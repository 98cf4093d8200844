//! Where a coordinator listens, who is let in there, and the server behind it.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn_with_state;
use axum::routing::get;
use perennial_secure::{Credentials, Role, Security, Tokens};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::{Error, Server};

use super::admission::{Admission, HEALTH, admit};
use super::door::{self, Limits};
use super::reachable;
use crate::CoordinatorError;

/// Calls at the same time on one connection: a worker has one, a person's command too.
const STREAMS: u32 = 64;
/// How often a connection is asked whether its other end is there, and how long the answer may take.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Who may reach a coordinator, and how.
#[derive(Debug, Clone, Default)]
pub struct Access {
    pub security: Security,
    /// Taken from people beside certificates; under TLS alone.
    pub tokens: Option<Arc<Tokens>>,
}

/// An address at which somebody may dial already, and nobody is answered yet.
pub(super) struct Port {
    listener: TcpListener,
    pub local: SocketAddr,
    tls: Option<Arc<Credentials>>,
    tokens: Option<Arc<Tokens>>,
}

// === impl Port ===

impl Port {
    /// Refused where other machines reach the address and what is said there would not be encrypted.
    pub async fn open(address: &str, access: &Access) -> Result<Self, CoordinatorError> {
        let tls = access.security.credentials().cloned();
        if let Some(own) = &tls {
            own.require(Role::Coordinator)?;
        }
        let failed = |source: std::io::Error| {
            let address = address.to_string();
            match source.kind() {
                std::io::ErrorKind::AddrInUse => CoordinatorError::AddressInUse { address },
                _ => CoordinatorError::Listen { address, source },
            }
        };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        access.security.may_listen(local)?;
        Ok(Self {
            listener,
            local,
            tls,
            tokens: access.tokens.clone(),
        })
    }

    /// The address that others are told: `advertised`, or else where this machine reaches it.
    pub fn told(&self, advertised: Option<&str>) -> String {
        let address = advertised.map_or_else(|| reachable(self.local), str::to_string);
        match self.tls {
            Some(_) => format!("https://{address}"),
            None => address,
        }
    }

    /// Answers until `over`. `job`: the one that is served, to which a token may be bound. `advertised`: as in
    /// [`Port::told`].
    pub fn serve(
        self,
        router: Router,
        job: Option<&str>,
        advertised: Option<&str>,
        over: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<Result<(), Error>> {
        let admission = Admission {
            job: job.map(Arc::from),
            tokens: self.tokens,
            advertised: advertised.map(Arc::from),
        };
        let router = router
            .route(HEALTH, get(|| async { "ok\n" }))
            .layer(from_fn_with_state(admission, admit));
        let connections = door::open(self.listener, self.tls, Limits::default());
        tokio::spawn(
            Server::builder()
                // Prometheus comes by HTTP/1.
                .accept_http1(true)
                .max_concurrent_streams(STREAMS)
                .http2_keepalive_interval(Some(KEEP_ALIVE))
                .http2_keepalive_timeout(Some(KEEP_ALIVE))
                .add_routes(router.into())
                .serve_with_incoming_shutdown(connections, over),
        )
    }
}
