//! From the object store's errors to sentences that say what to do.

use std::error::Error as StdError;
use std::io;

use object_store::Error;
use object_store::client::{HttpError, HttpErrorKind};

use crate::backend::Store;
use crate::error::StoreError;

// === impl Store ===

impl Store {
    /// What an error of the object store means for `path`.
    pub(crate) fn translate(&self, path: &str, error: object_store::Error) -> StoreError {
        let text = chain(&error);
        let (place, endpoint) = (self.place.url.clone(), self.place.endpoint.clone());
        let path = path.to_owned();
        let full = |e: &io::Error| {
            matches!(
                e.kind(),
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded
            )
        };
        if find::<io::Error>(&error).any(full) {
            return StoreError::Full { place, path };
        }
        if text.contains("NoSuchBucket") {
            let bucket = self.place.bucket.clone();
            return StoreError::NoBucket { bucket, endpoint };
        }
        let unreached =
            |e: &HttpError| matches!(e.kind(), HttpErrorKind::Connect | HttpErrorKind::Timeout);
        if find::<HttpError>(&error).any(unreached) {
            let reason = last(&error);
            return StoreError::Unreachable {
                place,
                endpoint,
                reason,
            };
        }
        let reason = answer(&text).unwrap_or_else(|| last(&error));
        match error {
            Error::AlreadyExists { .. } => StoreError::Exists { path },
            Error::NotFound { .. } => StoreError::Missing { path },
            Error::PermissionDenied { .. } | Error::Unauthenticated { .. } => {
                StoreError::Refused { place, reason }
            }
            // A refused listing has no kind of its own.
            _ if text.contains("403 Forbidden") || text.contains("401 Unauthorized") => {
                StoreError::Refused { place, reason }
            }
            _ => StoreError::Failed {
                place,
                path,
                reason,
            },
        }
    }
}

/// The error and its causes.
fn causes<'a>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn StdError + 'static)| {
        (*error).source()
    })
}

pub(crate) fn find<'a, E: StdError + 'static>(
    error: &'a (dyn StdError + 'static),
) -> impl Iterator<Item = &'a E> {
    causes(error).filter_map(|cause| cause.downcast_ref())
}

pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let causes: Vec<String> = causes(error).map(ToString::to_string).collect();
    causes.join(": ")
}

/// The root of the matter, without the address that the message names already.
fn last(error: &(dyn StdError + 'static)) -> String {
    let root = causes(error).last();
    root.map_or_else(String::new, ToString::to_string)
}

/// What an S3 server's answer says, such as `AccessDenied`, and in its own words where it has some.
fn answer(text: &str) -> Option<String> {
    let between = |open: &str, close: &str| {
        let (_, rest) = text.split_once(open)?;
        let (inside, _) = rest.split_once(close)?;
        Some(inside.to_owned())
    };
    let code = between("<Code>", "</Code>")?;
    match between("<Message>", "</Message>") {
        Some(message) => Some(format!("{code} ({message})")),
        None => Some(code),
    }
}
