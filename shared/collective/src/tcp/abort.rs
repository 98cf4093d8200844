//! Ending a collective from outside.

use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Ends one connect and what it made, from any thread: both then give
/// [`CollectiveError::Aborted`](crate::CollectiveError::Aborted) at once. Make a new one for each connect.
#[derive(Debug, Clone, Default)]
pub struct AbortHandle(Arc<State>);

#[derive(Debug, Default)]
struct State {
    aborted: AtomicBool,
    streams: Mutex<Vec<Arc<TcpStream>>>,
}

// === impl AbortHandle ===

impl AbortHandle {
    pub fn new() -> Self {
        Self::default()
    }

    pub fn abort(&self) {
        self.0.aborted.store(true, Ordering::SeqCst);
        self.close();
    }

    pub fn is_aborted(&self) -> bool {
        self.0.aborted.load(Ordering::SeqCst)
    }

    /// Closes `stream` when aborted, now or later.
    pub(super) fn watch(&self, stream: &Arc<TcpStream>) {
        self.streams().push(stream.clone());
        if self.is_aborted() {
            self.close();
        }
    }

    /// Closes all connections.
    pub(super) fn close(&self) {
        for stream in self.streams().drain(..) {
            // A connection that the peer closed first needs no more.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Arc<TcpStream>>> {
        let streams = self.0.streams.lock();
        streams.unwrap_or_else(PoisonError::into_inner)
    }
}
