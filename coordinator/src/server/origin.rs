//! What a page in a browser may ask: only the dashboard's own. A browser sends a person's cookie and certificate
//! with whatever any page asks, and reaches what listens within its machine.
//!
//! A request that changes something says in `Origin` which page asks, and that has to be this server's. Without
//! TLS another site can give a name of its own our address (DNS rebinding), so there the host must be one that
//! nobody else can name: an address, `localhost`, or what the coordinator was told to advertise.

use std::net::IpAddr;

use axum::http::header::{HOST, HeaderMap, ORIGIN};
use axum::http::uri::Authority;
use axum::http::{Method, Uri};

/// Where a server is, as far as a browser's request is concerned.
#[derive(Debug, Clone, Copy)]
pub(super) struct Here<'a> {
    /// Nothing is encrypted.
    pub plain: bool,
    /// `HOST:PORT` under which others reach it, if it was given.
    pub advertised: Option<&'a str>,
}

/// Whether `path` is of the dashboard, which is for browsers.
pub(super) fn is_for_browsers(path: &str) -> bool {
    path == "/" || path.starts_with("/api/") || path.starts_with("/assets/")
}

// === impl Here ===

impl Here<'_> {
    /// Why a request is refused, if it is.
    pub fn refuse(self, method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), String> {
        let for_browsers = is_for_browsers(uri.path());
        let origin = headers.get(ORIGIN);
        if !for_browsers && origin.is_none() {
            // No browser: it says where a page comes from that asks anything but a page or a picture.
            return Ok(());
        }
        let host = host_of(uri, headers).ok_or("the request names no host")?;
        if self.plain && !self.is_ours(&host) {
            return Err(format!(
                "this is not known as `{}`; use its address, `localhost`, or the name that `--advertise` gives it",
                host.host()
            ));
        }
        if matches!(*method, Method::GET | Method::HEAD) {
            return Ok(());
        }
        let Some(origin) = origin else {
            return Err("the request does not say which page asks (Origin)".into());
        };
        let page = origin.to_str().ok();
        let page = page.and_then(|origin| origin.split_once("://"));
        match page {
            Some(("http" | "https", authority))
                if authority.eq_ignore_ascii_case(host.as_str()) =>
            {
                Ok(())
            }
            _ => Err("a page of another site asks (Origin)".into()),
        }
    }

    fn is_ours(self, host: &Authority) -> bool {
        let name = host.host();
        let address = name.trim_start_matches('[').trim_end_matches(']');
        let advertised = self.advertised.and_then(|it| it.parse::<Authority>().ok());
        name.eq_ignore_ascii_case("localhost")
            || address.parse::<IpAddr>().is_ok()
            || advertised.is_some_and(|own| own.host().eq_ignore_ascii_case(name))
    }
}

/// HTTP/2 has it in the address, HTTP/1 in a header.
fn host_of(uri: &Uri, headers: &HeaderMap) -> Option<Authority> {
    if let Some(authority) = uri.authority() {
        return Some(authority.clone());
    }
    headers.get(HOST)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Here<'static> = Here {
        plain: true,
        advertised: Some("hut:7400"),
    };
    const TLS: Here<'static> = Here {
        plain: false,
        advertised: None,
    };

    /// Whether `POST /api/jobs` goes through, or what else `path` is with another `method`.
    fn passes(here: Here<'_>, (method, path): (Method, &str), host: &str, origin: &str) -> bool {
        let mut headers = HeaderMap::new();
        if !host.is_empty() {
            headers.insert(HOST, host.parse().unwrap());
        }
        if !origin.is_empty() {
            headers.insert(ORIGIN, origin.parse().unwrap());
        }
        here.refuse(&method, &path.parse().unwrap(), &headers)
            .is_ok()
    }

    #[test]
    fn only_our_own_page_changes_anything() {
        let post = (Method::POST, "/api/jobs/flowers/stop");
        for (host, origin, expected) in [
            ("127.0.0.1:7400", "http://127.0.0.1:7400", true),
            ("[::1]:7400", "http://[::1]:7400", true),
            ("localhost:7400", "http://LOCALHOST:7400", true),
            ("hut:7400", "http://hut:7400", true),
            ("127.0.0.1:7400", "", false),
            ("127.0.0.1:7400", "null", false),
            ("127.0.0.1:7400", "http://127.0.0.1:7401", false),
            ("127.0.0.1:7400", "http://127.0.0.1", false),
            ("127.0.0.1:7400", "http://evil.example", false),
            ("127.0.0.1:7400", "file://127.0.0.1:7400", false),
            ("evil.example:7400", "http://evil.example:7400", false),
            (
                "localhost.evil.example:7400",
                "http://localhost.evil.example:7400",
                false,
            ),
            ("", "http://127.0.0.1:7400", false),
        ] {
            let passed = passes(PLAIN, post.clone(), host, origin);
            assert_eq!(passed, expected, "{host} {origin}");
        }
        // A certificate says who is at a name, so any of them will do.
        assert!(passes(
            TLS,
            post.clone(),
            "train.example",
            "https://train.example"
        ));
        assert!(!passes(TLS, post, "train.example", "https://evil.example"));
    }

    #[test]
    fn another_name_for_our_address_reads_nothing_and_calls_nothing() {
        for path in ["/", "/api/overview", "/assets/main.js"] {
            assert!(passes(PLAIN, (Method::GET, path), "127.0.0.1:1", ""));
            assert!(!passes(PLAIN, (Method::GET, path), "evil.example:1", ""));
        }
        let stop = (Method::POST, "/perennial.v1.Coordinator/Stop");
        assert!(
            passes(PLAIN, stop.clone(), "coordinator:7400", ""),
            "a command"
        );
        assert!(!passes(PLAIN, stop.clone(), "evil:1", "http://evil:1"));
        assert!(!passes(PLAIN, stop, "127.0.0.1:1", "http://evil:1"));
    }
}
