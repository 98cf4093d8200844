//! Work done ahead of its use, on threads of its own, delivered in the order it was asked for.

use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// The results of a sequence of requests, in order, computed up to a bounded number ahead. Dropping it
/// waits for nothing: each thread ends after the request it is at.
pub struct Prefetcher<T> {
    shared: Arc<Shared<T>>,
}

struct Shared<T> {
    state: Mutex<State<T>>,
    changed: Condvar,
    look_ahead: u64,
}

struct State<T> {
    ready: BTreeMap<u64, T>,
    /// Requests taken by a thread so far.
    taken: u64,
    /// Results handed out so far.
    delivered: u64,
    /// No more requests will be taken: they ran out, or nobody wants results any more.
    closed: bool,
    panicked: bool,
}

// === impl Prefetcher ===

impl<T: Send + 'static> Prefetcher<T> {
    /// Runs `work` on each of `requests` with `threads` threads; at most `look_ahead` results (at least
    /// one) are under way or wait to be taken.
    pub fn new<R: Send + 'static>(
        threads: usize,
        look_ahead: usize,
        requests: impl Iterator<Item = R> + Send + 'static,
        work: impl Fn(R) -> T + Send + Sync + 'static,
    ) -> Self {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                ready: BTreeMap::new(),
                taken: 0,
                delivered: 0,
                closed: false,
                panicked: false,
            }),
            changed: Condvar::new(),
            look_ahead: look_ahead.max(1) as u64,
        });
        let requests = Arc::new(Mutex::new(requests));
        let work = Arc::new(work);
        for _ in 0..threads.max(1) {
            let (shared, requests, work) = (shared.clone(), requests.clone(), work.clone());
            std::thread::spawn(move || shared.serve(&requests, &*work));
        }
        Self { shared }
    }
}

impl<T> Iterator for Prefetcher<T> {
    type Item = T;

    /// Waits for the next result; none when all requests are answered.
    ///
    /// # Panics
    /// When a thread panicked.
    fn next(&mut self) -> Option<T> {
        let mut state = self.shared.lock();
        loop {
            let next = state.delivered;
            if let Some(result) = state.ready.remove(&next) {
                state.delivered += 1;
                drop(state);
                self.shared.changed.notify_all();
                return Some(result);
            }
            if state.panicked {
                drop(state);
                panic!("a loader thread panicked");
            }
            if state.closed && state.taken == state.delivered {
                return None;
            }
            state = self.shared.wait(state);
        }
    }
}

impl<T> Drop for Prefetcher<T> {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        let unwanted = std::mem::take(&mut state.ready);
        drop(state);
        self.shared.changed.notify_all();
        drop(unwanted);
    }
}

// === impl Shared ===

impl<T> Shared<T> {
    fn serve<R>(&self, requests: &Mutex<impl Iterator<Item = R>>, work: &impl Fn(R) -> T) {
        let _guard = PanicGuard(self);
        while let Some((place, request)) = self.take(requests) {
            let result = work(request);
            self.lock().ready.insert(place, result);
            self.changed.notify_all();
        }
    }

    /// The next request and its place, once there is room for its result. Requests may take their time to
    /// come: whoever waits for a result that is ready does not wait for them.
    fn take<R>(&self, requests: &Mutex<impl Iterator<Item = R>>) -> Option<(u64, R)> {
        // Locked before the state, by one thread at a time from here to the end: places follow requests.
        let mut requests = requests.lock().unwrap_or_else(PoisonError::into_inner);
        let mut state = self.lock();
        while !state.closed && state.taken >= state.delivered + self.look_ahead {
            state = self.wait(state);
        }
        if state.closed {
            return None;
        }
        drop(state);
        let request = requests.next();
        let mut state = self.lock();
        let Some(request) = request else {
            state.closed = true;
            drop(state);
            self.changed.notify_all();
            return None;
        };
        let place = state.taken;
        state.taken += 1;
        Some((place, request))
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, state: MutexGuard<'a, State<T>>) -> MutexGuard<'a, State<T>> {
        self.changed
            .wait(state)
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// Tells the waiting side when its thread unwinds.
struct PanicGuard<'a, T>(&'a Shared<T>);

impl<T> Drop for PanicGuard<'_, T> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.lock().panicked = true;
            self.0.changed.notify_all();
        }
    }
}
