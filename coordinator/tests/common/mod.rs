//! A coordinator of a queue in memory, on a real port.

use std::net::SocketAddr;
use std::time::Duration;

use perennial_coordinator::{Access, QueueConfig, serve_queue};
use perennial_store::Store;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

/// How long anything may take.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// Serves a queue that has nobody to work for it: where, and what ends it when it is dropped.
pub async fn queue(access: Access) -> (SocketAddr, watch::Sender<bool>) {
    let config = QueueConfig {
        listen: "127.0.0.1:0".into(),
        advertise: None,
        access,
        store: Store::in_memory(),
        store_url: "memory".into(),
        standby: false,
        read_job: |name, text| {
            serde_json::from_str(text).map_err(|error| format!("`{name}`: {error}"))
        },
    };
    let (bound, address) = oneshot::channel();
    let (events, mut told) = mpsc::unbounded_channel();
    let (stop, stopping) = watch::channel(false);
    tokio::spawn(serve_queue(config, bound, events, stopping));
    // The first thing that is told is that it rules.
    timeout(DEADLINE, told.recv()).await.unwrap().unwrap();
    tokio::spawn(async move { while told.recv().await.is_some() {} });
    (address.await.unwrap(), stop)
}
