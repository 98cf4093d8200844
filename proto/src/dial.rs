//! The way to a coordinator: TLS where its address says `https://`, plain text within a machine or where
//! that was allowed.

use std::error::Error;
use std::fmt;
use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use perennial_secure::{Security, in_words, text_in_words};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use tower::service_fn;

use crate::v1::coordinator_client::CoordinatorClient;
use crate::v1::queue_client::QueueClient;

/// A client that shows its person's token.
pub type Client = CoordinatorClient<InterceptedService<Channel, ShowToken>>;

/// Why a coordinator is not reached.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    #[error(
        "the coordinator's address `{url}` is not valid: {cause}; write it as `http://HOST:PORT` or `https://HOST:PORT`"
    )]
    Address { url: String, cause: String },
    /// Nobody is there, or one of both refuses the other.
    #[error("{0}")]
    Unreachable(String),
}

/// Where a coordinator is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    /// `HOST:PORT`.
    authority: String,
    encrypted: bool,
}

/// Adds a token to every call.
#[derive(Debug, Clone)]
pub struct ShowToken(Option<MetadataValue<Ascii>>);

// Whatever carries bytes.
trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

// === impl Address ===

impl Address {
    /// `http://HOST:PORT`, `https://HOST:PORT`, or `HOST:PORT`, which is the second where this party has
    /// credentials.
    pub fn parse(url: &str, security: &Security) -> Result<Self, DialError> {
        Self::parse_or(url, security.credentials().is_some())
    }

    fn parse_or(url: &str, encrypted: bool) -> Result<Self, DialError> {
        let (encrypted, authority) = match url.split_once("://") {
            Some(("https", rest)) => (true, rest),
            Some(("http", rest)) => (false, rest),
            Some(_) => return Err(invalid(url, "its scheme is unknown")),
            None => (encrypted, url),
        };
        let address = Self {
            authority: authority.trim_end_matches('/').to_string(),
            encrypted,
        };
        address.endpoint(url).map(|_| address)
    }

    /// The address that a coordinator has written into its job's log: in plain text unless it says otherwise.
    pub fn in_log(address: &str) -> Result<Self, DialError> {
        Self::parse_or(address, false)
    }

    fn endpoint(&self, url: &str) -> Result<Endpoint, DialError> {
        let endpoint = Endpoint::from_shared(format!("http://{}", self.authority));
        let endpoint = endpoint.map_err(|error| invalid(url, &cause(&error)))?;
        if endpoint.uri().host().is_none_or(str::is_empty) {
            return Err(invalid(url, "it has no host"));
        }
        Ok(endpoint)
    }

    /// A channel; `patience` is for the connection.
    pub async fn connect(
        &self,
        security: &Security,
        patience: Duration,
    ) -> Result<Channel, DialError> {
        let endpoint = self.endpoint(&self.authority)?;
        self.open_channel(endpoint.connect_timeout(patience), security)
            .await
    }

    async fn open_channel(
        &self,
        endpoint: Endpoint,
        security: &Security,
    ) -> Result<Channel, DialError> {
        let (address, security) = (self.clone(), security.clone());
        let connector = service_fn(move |_| {
            let (address, security) = (address.clone(), security.clone());
            async move { address.open(&security).await.map(TokioIo::new) }
        });
        let channel = endpoint.connect_with_connector(connector).await;
        channel.map_err(|error| DialError::Unreachable(cause(&error)))
    }

    /// A client for single calls, each of which may take `patience`. A token is shown under TLS alone.
    pub async fn client(
        &self,
        security: &Security,
        patience: Duration,
    ) -> Result<Client, DialError> {
        let channel = self.channel_for_calls(security, patience).await?;
        let shown = self.shown(security);
        Ok(CoordinatorClient::with_interceptor(channel, shown))
    }

    /// The same for what a queue alone has.
    pub async fn queue_client(
        &self,
        security: &Security,
        patience: Duration,
    ) -> Result<QueueClient<InterceptedService<Channel, ShowToken>>, DialError> {
        let channel = self.channel_for_calls(security, patience).await?;
        let shown = self.shown(security);
        Ok(QueueClient::with_interceptor(channel, shown))
    }

    async fn channel_for_calls(
        &self,
        security: &Security,
        patience: Duration,
    ) -> Result<Channel, DialError> {
        let endpoint = self.endpoint(&self.authority)?;
        let endpoint = endpoint.connect_timeout(patience).timeout(patience);
        self.open_channel(endpoint, security).await
    }

    fn shown(&self, security: &Security) -> ShowToken {
        let token = security.token().filter(|_| self.encrypted);
        let shown = token.and_then(|token| {
            let mut value: MetadataValue<Ascii> =
                format!("Bearer {}", token.reveal()).parse().ok()?;
            value.set_sensitive(true);
            Some(value)
        });
        ShowToken(shown)
    }

    async fn open(&self, security: &Security) -> io::Result<Box<dyn Bytes>> {
        let mut last = io::Error::other("the name has no address");
        for address in lookup_host(&self.authority).await? {
            if !self.encrypted {
                security
                    .may_dial_plainly(address)
                    .map_err(io::Error::other)?;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return self.speak(stream, security).await,
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn speak(&self, stream: TcpStream, security: &Security) -> io::Result<Box<dyn Bytes>> {
        stream.set_nodelay(true)?;
        if !self.encrypted {
            return Ok(Box::new(stream));
        }
        let credentials = security.credentials().ok_or_else(|| {
            io::Error::other("it speaks TLS; give --tls-ca, or the variable PERENNIAL_TLS_CA")
        })?;
        let config = credentials.to_coordinator();
        let host = self.authority.rsplit_once(':').map_or("", |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(host.to_string()).map_err(io::Error::other)?;
        let encrypted = TlsConnector::from(config).connect(name, stream).await?;
        Ok(Box::new(encrypted))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.encrypted { "https" } else { "http" };
        write!(f, "{scheme}://{}", self.authority)
    }
}

// === impl ShowToken ===

impl Interceptor for ShowToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            (request.metadata_mut()).insert("authorization", token.clone());
        }
        Ok(request)
    }
}

fn invalid(url: &str, cause: &str) -> DialError {
    DialError::Address {
        url: url.to_string(),
        cause: cause.to_string(),
    }
}

/// The innermost cause in words: what tonic says itself is only `transport error`.
pub fn cause(error: &(dyn Error + 'static)) -> String {
    let mut error = error;
    loop {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return in_words(tls);
        }
        // What an I/O error wraps is not its source but a part of it.
        let wrapped = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            .map(|inner| inner as &(dyn Error + 'static));
        match wrapped.or_else(|| error.source()) {
            Some(inner) => error = inner,
            None => return text_in_words(&error.to_string()),
        }
    }
}

/// What a coordinator answered, or what became of the connection.
pub fn words_of(status: &Status) -> String {
    match status.source() {
        Some(source) => cause(source),
        None => text_in_words(status.message()),
    }
}
