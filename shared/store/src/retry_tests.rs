use super::*;
use object_store::path::Path;

fn generic(text: &str) -> Error {
    Error::Generic {
        store: "S3",
        source: text.to_owned().into(),
    }
}

fn status_error(status: &str, code: &str) -> Error {
    generic(&format!(
        "Server returned non-2xx status code: {status}: <Error><Code>{code}</Code></Error>"
    ))
}

fn http(kind: HttpErrorKind) -> Error {
    interrupted(kind, Interrupted::NoAnswer(Duration::ZERO))
}

fn io(kind: io::ErrorKind) -> Error {
    Error::Generic {
        store: "LocalFileSystem",
        source: Box::new(io::Error::from(kind)),
    }
}

/// As `object_store` makes them of 404, 403, 409 and 412.
fn named(make: fn(String, Box<dyn std::error::Error + Send + Sync>) -> Error, text: &str) -> Error {
    make("a".to_owned(), text.into())
}

#[test]
fn what_may_pass_is_told_from_what_will_not() {
    let not_found = |path, source| Error::NotFound { path, source };
    let exists = |path, source| Error::AlreadyExists { path, source };
    let denied = |path, source| Error::PermissionDenied { path, source };
    let conflict = "Server returned non-2xx status code: 409 Conflict: \
                    <Error><Code>ConditionalRequestConflict</Code></Error>";
    let table = [
        (status_error("503 Service Unavailable", "SlowDown"), true),
        (status_error("503 Service Unavailable", ""), true),
        (
            status_error("500 Internal Server Error", "InternalError"),
            true,
        ),
        (status_error("502 Bad Gateway", ""), true),
        (status_error("504 Gateway Timeout", ""), true),
        (status_error("429 Too Many Requests", ""), true),
        (status_error("408 Request Timeout", ""), true),
        (status_error("400 Bad Request", "RequestTimeout"), true),
        (
            generic("DeleteObjects request failed for key a: busy (code: SlowDown)"),
            true,
        ),
        (
            generic("Server returned error response: <Error><Code>InternalError</Code></Error>"),
            true,
        ),
        (status_error("400 Bad Request", "InvalidArgument"), false),
        (
            status_error("413 Payload Too Large", "EntityTooLarge"),
            false,
        ),
        (status_error("501 Not Implemented", "NotImplemented"), false),
        (status_error("507 Insufficient Storage", ""), false),
        (
            generic("DeleteObjects request failed for key SlowDown: no (code: AccessDenied)"),
            false,
        ),
        (generic("something else"), false),
        (http(HttpErrorKind::Connect), true),
        (http(HttpErrorKind::Request), true),
        (http(HttpErrorKind::Timeout), true),
        (http(HttpErrorKind::Interrupted), true),
        (http(HttpErrorKind::Decode), true),
        (http(HttpErrorKind::Unknown), false),
        (io(io::ErrorKind::TimedOut), true),
        (io(io::ErrorKind::StaleNetworkFileHandle), true),
        (io(io::ErrorKind::StorageFull), false),
        (io(io::ErrorKind::PermissionDenied), false),
        (named(not_found, "503"), false),
        (named(denied, "403 Forbidden"), false),
        (named(exists, "412"), false),
        (named(exists, conflict), true),
        (
            named(
                exists,
                &conflict.replace("ConditionalRequestConflict", "OperationAborted"),
            ),
            true,
        ),
        (
            named(
                exists,
                &conflict.replace("ConditionalRequestConflict", "BucketNotEmpty"),
            ),
            false,
        ),
        (Error::from(Path::parse("a//b").unwrap_err()), false),
    ];
    for (error, transient) in table {
        assert_eq!(is_transient(&error), transient, "{error:?}");
    }
}

#[test]
fn pauses_double_up_to_the_longest() {
    let budget = RetryBudget::default();
    let bounds = [1, 2, 3, 6, 7, 40, u32::MAX].map(|failed| budget.bound(failed).as_millis());
    assert_eq!(bounds, [100, 200, 400, 3200, 5000, 5000, 5000]);
}
