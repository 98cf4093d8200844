//! Ending a collective from outside.

use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::stream::Stream;

/// Ends one connect and what it made, from any thread: both then give
/// [`CollectiveError::Aborted`](crate::CollectiveError::Aborted) at once.
///
/// A handle that was aborted stays so. Make a new one for each generation: with that, the next one connects
/// on the same endpoint at once, and a late abort of the old handle cannot hurt it.
#[derive(Debug, Clone, Default)]
pub struct AbortHandle(Arc<State>);

#[derive(Debug, Default)]
struct State {
    aborted: AtomicBool,
    streams: Mutex<Vec<Weak<Stream>>>,
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

    /// Closes `stream` when aborted, now or later, as long as somebody has it.
    pub(crate) fn watch(&self, stream: &Arc<Stream>) {
        let mut streams = self.streams();
        streams.retain(|stream| stream.strong_count() > 0);
        streams.push(Arc::downgrade(stream));
        drop(streams);
        if self.is_aborted() {
            self.close();
        }
    }

    fn close(&self) {
        for stream in self.streams().drain(..).filter_map(|weak| weak.upgrade()) {
            // A connection that the peer closed first needs no more.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn streams(&self) -> MutexGuard<'_, Vec<Weak<Stream>>> {
        let streams = self.0.streams.lock();
        streams.unwrap_or_else(PoisonError::into_inner)
    }
}
