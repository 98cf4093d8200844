//! What is tried again, and for how long: one rule for all operations and all kinds of store.

use std::future::Future;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};
use perennial_plan::random::{Domain, Draw, Stream};

use crate::backend::Store;
use crate::error::StoreError;
use crate::translate::{chain, find};

/// The slowest transfer that is waited for.
const BYTES_A_SECOND: u64 = 1 << 20;

/// How long an operation is tried. Between attempts it waits at random between nothing and a bound that
/// doubles each time (Brooker: "Exponential backoff and jitter", 2015, full jitter).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// No attempt begins later than this after the first.
    pub total: Duration,
    /// How long one attempt waits for an answer; the transfer of an object gets a second more for each
    /// MiB.
    pub answer: Duration,
    pub first_pause: Duration,
    pub longest_pause: Duration,
}

/// The attempts at one operation.
pub(crate) struct Attempts<'a> {
    store: &'a Store,
    operation: &'static str,
    path: &'a str,
    started: Instant,
    failed: u32,
    jitter: Stream,
}

/// An attempt that took too long, or brought too little.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    #[error("`{found}` bytes came instead of `{expected}`")]
    Short { found: u64, expected: u64 },
}

// === impl RetryBudget ===

impl Default for RetryBudget {
    fn default() -> Self {
        Self {
            total: Duration::from_secs(30),
            answer: Duration::from_secs(30),
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
        }
    }
}

impl RetryBudget {
    /// Waits for a part of an attempt that transfers so many bytes.
    pub(crate) async fn wait<T>(
        &self,
        bytes: u64,
        part: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        let limit = self.answer + Duration::from_secs(bytes / BYTES_A_SECOND);
        match tokio::time::timeout(limit, part).await {
            Ok(result) => result,
            Err(_) => Err(interrupted(
                HttpErrorKind::Timeout,
                Interrupted::NoAnswer(limit),
            )),
        }
    }

    /// The longest pause after this many failures.
    fn bound(&self, failed: u32) -> Duration {
        let doubled = 2u32.saturating_pow(failed.saturating_sub(1));
        let bound = self.first_pause.saturating_mul(doubled);
        bound.min(self.longest_pause)
    }
}

// === impl Store ===

impl Store {
    pub(crate) fn attempts<'a>(&'a self, operation: &'static str, path: &'a str) -> Attempts<'a> {
        let seed = RandomState::new().hash_one(path);
        Attempts {
            store: self,
            operation,
            path,
            started: Instant::now(),
            failed: 0,
            jitter: Stream::new(seed, Domain::Backoff, &[]),
        }
    }

    /// Tries until it succeeds, cannot succeed, or the budget is used up.
    pub(crate) async fn persist<T, A>(
        &self,
        operation: &'static str,
        path: &str,
        mut attempt: impl FnMut() -> A,
    ) -> Result<T, StoreError>
    where
        A: Future<Output = Result<T, Error>>,
    {
        let mut attempts = self.attempts(operation, path);
        loop {
            match attempt().await {
                Ok(done) => return Ok(done),
                Err(error) => attempts.again(error).await?,
            }
        }
    }
}

// === impl Attempts ===

impl Attempts<'_> {
    /// Whether an attempt has failed that may have taken effect all the same. Each may have: a proxy can
    /// answer 503 after the server has written.
    pub fn ambiguous(&self) -> bool {
        self.failed > 0
    }

    /// Waits before another attempt, or says why there is none.
    pub async fn again(&mut self, error: Error) -> Result<(), StoreError> {
        let transient = is_transient(&error);
        let error = self.store.translate(self.path, error);
        self.failed += 1;
        let budget = &self.store.retry;
        let pause = budget.bound(self.failed).mul_f64(self.jitter.uniform());
        let elapsed = self.started.elapsed();
        if !transient || elapsed + pause >= budget.total {
            return Err(self.told(error, elapsed));
        }
        let (operation, path, attempt) = (self.operation, self.path, self.failed);
        tracing::info!(operation, path, attempt, ?pause, %error, "the store is asked again");
        self.store.retries.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// The error with how long and how often it was tried.
    fn told(&self, mut error: StoreError, elapsed: Duration) -> StoreError {
        if let StoreError::Failed { reason, .. } | StoreError::Unreachable { reason, .. } =
            &mut error
            && self.failed > 1
        {
            let (times, seconds) = (self.failed, elapsed.as_secs_f64());
            *reason = format!("{reason}; tried {times} times in {seconds:.1} seconds");
        }
        error
    }
}

/// Whether the same request may succeed later.
pub(crate) fn is_transient(error: &Error) -> bool {
    let text = chain(error);
    match error {
        // Two conditional writes met, and S3 wants this one again: nothing says that the object is there.
        Error::AlreadyExists { .. } => {
            ["ConditionalRequestConflict", "OperationAborted"].contains(&code(&text))
        }
        Error::Generic { .. } => {
            find::<HttpError>(error).any(|error| error.kind() != HttpErrorKind::Unknown)
                || find::<io::Error>(error).any(|error| passes(error.kind()))
                || status(&text)
                    .is_some_and(|status| matches!(status, 408 | 429 | 500 | 502..=504 | 520..=529))
                || [
                    "SlowDown",
                    "InternalError",
                    "RequestTimeout",
                    "ServiceUnavailable",
                ]
                .contains(&code(&text))
        }
        _ => false,
    }
}

/// Whether such a failure of a file or a connection goes away by itself.
fn passes(kind: io::ErrorKind) -> bool {
    use io::ErrorKind::{
        BrokenPipe, ConnectionAborted, ConnectionReset, HostUnreachable, Interrupted, NetworkDown,
        NetworkUnreachable, NotConnected, ResourceBusy, StaleNetworkFileHandle, TimedOut,
        UnexpectedEof, WouldBlock,
    };
    matches!(
        kind,
        BrokenPipe
            | ConnectionAborted
            | ConnectionReset
            | HostUnreachable
            | Interrupted
            | NetworkDown
            | NetworkUnreachable
            | NotConnected
            | ResourceBusy
            | StaleNetworkFileHandle
            | TimedOut
            | UnexpectedEof
            | WouldBlock
    )
}

/// The HTTP status in what `object_store` says; its error type for it is private.
fn status(text: &str) -> Option<u16> {
    let (_, after) = text.split_once("non-2xx status code: ")?;
    after.get(..3)?.parse().ok()
}

/// The code in an S3 server's answer, or in one entry of its answer to a deletion of several objects.
fn code(text: &str) -> &str {
    let between = |open: &str, close: &str| {
        let (_, rest) = text.split_once(open)?;
        Some(rest.split_once(close)?.0)
    };
    between("<Code>", "</Code>")
        .or_else(|| between("(code: ", ")"))
        .unwrap_or_default()
}

/// The error for a body that is shorter or longer than was announced.
pub(crate) fn check_length(found: usize, expected: u64) -> Result<(), Error> {
    let found = found as u64;
    if found == expected {
        return Ok(());
    }
    Err(interrupted(
        HttpErrorKind::Interrupted,
        Interrupted::Short { found, expected },
    ))
}

fn interrupted(kind: HttpErrorKind, cause: Interrupted) -> Error {
    Error::Generic {
        store: "store",
        source: Box::new(HttpError::new(kind, cause)),
    }
}

#[cfg(test)]
#[path = "retry_tests.rs"]
mod tests;
