//! Attackers that hold no client of ours: sockets, and TLS without its courtesies.

use std::path::Path;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::body::Bytes;
use axum::http::{HeaderMap, Request};
use http_body_util::{BodyExt, Full};
use perennial_proto::dial::{Address, cause};
use perennial_secure::{Security, Token};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::body::Body;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tower::ServiceExt;

use crate::DEADLINE;
use crate::place::Place;

/// A client that shows the certificate of this name, whatever that is worth.
async fn dial(
    place: &Place,
    name: Option<&str>,
    protocol: &[u8],
) -> std::io::Result<TlsStream<TcpStream>> {
    let folder = place.folder.path();
    let mut roots = RootCertStore::empty();
    roots.add(certificate(&folder.join("ca.pem"))).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match name {
        None => builder.with_no_client_auth(),
        Some(name) => {
            let key = PrivateKeyDer::from_pem_file(folder.join(format!("{name}.key"))).unwrap();
            let shown = certificate(&folder.join(format!("{name}.pem")));
            builder.with_client_auth_cert(vec![shown], key).unwrap()
        }
    };
    config.alpn_protocols = vec![protocol.to_vec()];
    let stream = TcpStream::connect(place.address).await?;
    let host = ServerName::try_from("localhost").unwrap();
    TlsConnector::from(Arc::new(config))
        .connect(host, stream)
        .await
}

fn certificate(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).unwrap()
}

/// An answer by HTTP/1.
pub struct Answer {
    pub code: u16,
    /// Its headers, as they came.
    pub head: String,
    pub body: String,
}

/// The answer to `METHOD PATH`, with these lines of headers and this body, or why there is none.
pub async fn ask(
    place: &Place,
    certificate: Option<&str>,
    request: &str,
    headers: &[String],
    body: &str,
) -> Result<Answer, String> {
    let asked = async {
        let mut stream = dial(place, certificate, b"http/1.1").await?;
        let mut text = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        for header in headers {
            text += &format!("{header}\r\n");
        }
        text += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        stream.write_all(text.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = timeout(DEADLINE, asked).await.expect("an answer");
    let answer = answer.map_err(|error| cause(&error))?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    Ok(Answer {
        code: head.split(' ').nth(1).unwrap().parse().unwrap(),
        head: head.to_string(),
        body: body.to_string(),
    })
}

/// Status and body of `GET /metrics`, or why there is no answer.
pub async fn get_metrics(
    place: &Place,
    certificate: Option<&str>,
    token: Option<&Token>,
) -> Result<(u16, String), String> {
    get(place, "/metrics", certificate, token).await
}

/// The same of any path.
pub async fn get(
    place: &Place,
    path: &str,
    certificate: Option<&str>,
    token: Option<&Token>,
) -> Result<(u16, String), String> {
    let shown = token.map(|token| format!("Authorization: Bearer {}", token.reveal()));
    let shown: Vec<String> = shown.into_iter().collect();
    let answer = ask(place, certificate, &format!("GET {path}"), &shown, "").await?;
    Ok((answer.code, answer.body))
}

/// What comes back for bytes that are no TLS.
pub async fn plain(place: &Place, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(place.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is reset has ended, too.
    let _ = timeout(DEADLINE, stream.read_to_end(&mut answer))
        .await
        .expect("an end");
    answer
}

/// A coordinator in plain text that answers nothing of use, and the headers of all calls to it.
pub async fn listener() -> (String, Arc<Mutex<Vec<HeaderMap>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let heard: Arc<Mutex<Vec<HeaderMap>>> = Arc::default();
    let kept = heard.clone();
    let router = Router::new().fallback(move |headers: HeaderMap| {
        kept.lock().unwrap().push(headers);
        std::future::ready("")
    });
    let server = Server::builder().add_routes(router.into());
    tokio::spawn(server.serve_with_incoming(TcpIncoming::from(listener)));
    (url, heard)
}

/// Stands before a coordinator and keeps what is said to it.
pub struct Recorder {
    pub url: String,
    said: Arc<Mutex<Vec<u8>>>,
}

// === impl Recorder ===

impl Recorder {
    /// At an address of this machine.
    pub async fn before(place: &Place, host: &str) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let url = format!("https://{}", listener.local_addr().unwrap());
        let said: Arc<Mutex<Vec<u8>>> = Arc::default();
        let (kept, target) = (said.clone(), place.address);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(target).await.unwrap();
                let (mut from_near, mut to_near) = near.into_split();
                let (mut from_far, mut to_far) = far.into_split();
                let kept = kept.clone();
                tokio::spawn(async move { copy(&mut from_far, &mut to_near).await });
                tokio::spawn(async move {
                    let mut bytes = [0; 4096];
                    while let Ok(count @ 1..) = from_near.read(&mut bytes).await {
                        kept.lock().unwrap().extend(&bytes[..count]);
                        to_far.write_all(&bytes[..count]).await.unwrap();
                    }
                });
            }
        });
        Self { url, said }
    }

    pub fn said(&self) -> Vec<u8> {
        self.said.lock().unwrap().clone()
    }
}

/// Says it again on a new connection and waits until the coordinator ends that.
pub async fn replay(place: &Place, said: &[u8]) {
    plain(place, said).await;
}

/// Opens a session and says that a message of a gigabyte comes; returns once the coordinator has ended it.
pub async fn claims_a_long_message(place: &Place, worker: &Security) {
    let address = Address::parse(&place.url, worker).unwrap();
    let channel = address.connect(worker, DEADLINE).await.unwrap();
    let start = Bytes::from_static(&[0, 0x40, 0, 0, 0, 1, 2, 3]);
    let request = Request::post("/perennial.v1.Coordinator/Session")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Body::new(Full::new(start)))
        .unwrap();
    let ended = async {
        let answer = channel.oneshot(request).await.unwrap();
        // How it is ended does not matter.
        let _ = answer.into_body().collect().await;
    };
    timeout(DEADLINE, ended).await.expect("an end");
}
