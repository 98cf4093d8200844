//! An S3 server behind a proxy that plays tricks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use perennial_store::Store;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{serve_s3, variables};

/// What happens to a request.
#[derive(Debug, Clone, Copy)]
pub enum Trick {
    /// The proxy answers with this status and, after an empty line, this body.
    Answer(&'static str),
    /// The server does what is asked; its answer is dropped.
    LoseAnswer,
    /// Half of the server's answer arrives.
    BreakOff,
}

pub struct Tricked {
    pub store: Store,
    /// How many of the next requests are tricked.
    pub tricks: Arc<AtomicU64>,
    _folder: TempDir,
}

/// A bucket of which the next `times` requests are tricked.
pub async fn tricked_s3(trick: Trick, times: u64) -> Tricked {
    let (server, folder) = serve_s3().await;
    let server = server.strip_prefix("http://").unwrap().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let tricks = Arc::new(AtomicU64::new(times));
    let left = tricks.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (server, left) = (server.clone(), left.clone());
            // A connection that ends is no concern of the proxy.
            tokio::spawn(async move { serve(client, &server, trick, &left).await.ok() });
        }
    });
    let variables = variables(&endpoint, "secret");
    Tricked {
        store: Store::open_with("s3://bucket", &variables).unwrap(),
        tricks,
        _folder: folder,
    }
}

/// One request, then the connection is closed.
async fn serve(
    mut client: TcpStream,
    server: &str,
    trick: Trick,
    left: &AtomicU64,
) -> std::io::Result<()> {
    let request = message(&mut client, true).await?;
    let tricked = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1));
    let trick = tricked.is_ok().then_some(trick);
    if let Some(Trick::Answer(answer)) = trick {
        let (status, body) = answer.split_once("\r\n\r\n").unwrap();
        let bytes = body.len();
        let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {bytes}");
        let answer = format!("{head}\r\n\r\n{body}");
        return client.write_all(answer.as_bytes()).await;
    }
    let mut upstream = TcpStream::connect(server).await?;
    upstream.write_all(&request).await?;
    let answer = message(&mut upstream, !request.starts_with(b"HEAD")).await?;
    let passed = match trick {
        None => &answer[..],
        Some(Trick::BreakOff) => &answer[..answer.len() / 2],
        Some(_) => &[],
    };
    client.write_all(passed).await
}

/// A whole HTTP message with a content length or none. The answer to HEAD has no body in spite of it.
async fn message(socket: &mut TcpStream, has_body: bool) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    loop {
        let end = bytes.windows(4).position(|window| window == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let length = head
                .lines()
                .find_map(|line| line.strip_prefix("content-length:"));
            let length: usize = length.map_or(0, |text| text.trim().parse().unwrap());
            if !has_body || bytes.len() >= end + 4 + length {
                return Ok(bytes);
            }
        }
        if socket.read_buf(&mut bytes).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
    }
}
