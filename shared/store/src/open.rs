//! From an address to a store.

use std::collections::BTreeMap;
use std::sync::{Arc, Once};
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, RetryConfig};

use crate::backend::{Place, Store};
use crate::error::StoreError;
use crate::faults::FAULTS_VARIABLE;
use crate::retry::RetryBudget;
use crate::translate::chain;

/// How long one try to connect may take.
const CONNECT: Duration = Duration::from_secs(3);

// === impl Store ===

impl Store {
    /// Opens a folder, created when it is missing, or `s3://bucket/prefix` with the endpoint, keys and
    /// region of the process's `AWS_*` variables. Nothing is sent yet.
    ///
    /// For tests: where `PERENNIAL_STORE_FAULTS` is set, the store suffers the [`Faults`](crate::Faults)
    /// that it names.
    pub fn open(url: &str) -> Result<Self, StoreError> {
        let variables = std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self::open_with(url, &variables)
    }

    /// As [`Store::open`], with these variables instead of the process's.
    pub fn open_with(url: &str, variables: &BTreeMap<String, String>) -> Result<Self, StoreError> {
        let store = Self::open_sound(url, variables)?;
        let Some(faults) = variables.get(FAULTS_VARIABLE) else {
            return Ok(store);
        };
        static ONCE: Once = Once::new();
        ONCE.call_once(|| tracing::warn!("{FAULTS_VARIABLE}={faults} makes the store fail"));
        Ok(store.with_faults(faults.parse()?))
    }

    fn open_sound(url: &str, variables: &BTreeMap<String, String>) -> Result<Self, StoreError> {
        // An address stands in logs, reports and process lists.
        if let Some(told) = without_login(url) {
            return Err(StoreError::Url {
                url: told,
                reason: "keys do not belong into an address: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
                    .to_owned(),
            });
        }
        if let Some(rest) = url.strip_prefix("s3://") {
            let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
            return Self::bucket(url, bucket, prefix, variables);
        }
        let folder = url.strip_prefix("file://").unwrap_or(url);
        if folder.is_empty() || folder.contains("://") {
            return Err(StoreError::Url {
                url: url.to_owned(),
                reason: "it must be a folder or `s3://bucket/prefix`".to_owned(),
            });
        }
        Self::folder(url, folder)
    }

    /// A store that is gone with its last clone: for tests.
    pub fn in_memory() -> Self {
        let place = Place {
            url: "memory".to_owned(),
            bucket: String::new(),
            endpoint: "memory".to_owned(),
        };
        Self::new(Arc::new(InMemory::new()), Path::default(), place)
    }

    pub(crate) fn new(objects: Arc<dyn ObjectStore>, prefix: Path, place: Place) -> Self {
        Self {
            objects,
            prefix,
            place: Arc::new(place),
            retry: RetryBudget::default(),
            faults: None,
            retries: Arc::default(),
        }
    }

    fn folder(url: &str, folder: &str) -> Result<Self, StoreError> {
        let refused = |reason: String| StoreError::Url {
            url: url.to_owned(),
            reason,
        };
        std::fs::create_dir_all(folder).map_err(|error| refused(error.to_string()))?;
        let objects = LocalFileSystem::new_with_prefix(folder)
            .map_err(|error| refused(error.to_string()))?
            .with_automatic_cleanup(true)
            .with_fsync(true);
        let place = Place {
            url: url.to_owned(),
            bucket: String::new(),
            endpoint: folder.to_owned(),
        };
        Ok(Self::new(Arc::new(objects), Path::default(), place))
    }

    fn bucket(
        url: &str,
        bucket: &str,
        prefix: &str,
        variables: &BTreeMap<String, String>,
    ) -> Result<Self, StoreError> {
        let refused = |reason: String| StoreError::Url {
            url: url.to_owned(),
            reason,
        };
        if bucket.is_empty() {
            return Err(refused(
                "it names no bucket; write it as `s3://bucket/prefix`".to_owned(),
            ));
        }
        let prefix = Path::parse(prefix.trim_end_matches('/'))
            .map_err(|error| refused(error.to_string()))?;
        // Patience is the store's own: see `RetryBudget`.
        let retry = RetryConfig {
            max_retries: 0,
            ..RetryConfig::default()
        };
        let client = ClientOptions::new()
            .with_connect_timeout(CONNECT)
            .with_timeout_disabled();
        let mut builder = AmazonS3Builder::new()
            .with_client_options(client)
            .with_retry(retry)
            .with_bucket_name(bucket);
        let mut endpoint = None;
        for (name, value) in variables {
            let name = name.to_ascii_lowercase();
            if !name.starts_with("aws_") {
                continue;
            }
            let Ok(key) = name.parse::<AmazonS3ConfigKey>() else {
                continue;
            };
            // The bucket comes from the address alone.
            if matches!(key, AmazonS3ConfigKey::Bucket) {
                continue;
            }
            let names_s3 = matches!(key, AmazonS3ConfigKey::S3Endpoint);
            if names_s3 || matches!(key, AmazonS3ConfigKey::Endpoint) && endpoint.is_none() {
                endpoint = Some(value.clone());
            }
            builder = builder.with_config(key, value);
        }
        if endpoint.as_ref().is_some_and(|e| e.starts_with("http://")) {
            builder = builder.with_allow_http(true);
        }
        let set = |name: &str| variables.contains_key(name);
        let keys = set("AWS_ACCESS_KEY_ID") && set("AWS_SECRET_ACCESS_KEY");
        // Amazon's machines and clusters hand out keys themselves; other servers do not.
        let others = endpoint
            .as_ref()
            .is_some_and(|e| !e.contains("amazonaws.com"));
        let handed = set("AWS_WEB_IDENTITY_TOKEN_FILE")
            || set("AWS_CONTAINER_CREDENTIALS_FULL_URI")
            || set("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
            || set("AWS_SKIP_SIGNATURE");
        if others && !keys && !handed {
            let wanted = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY";
            return Err(refused(wanted.to_owned()));
        }
        let objects = builder.build().map_err(|error| refused(chain(&error)))?;
        let place = Place {
            url: url.to_owned(),
            bucket: bucket.to_owned(),
            endpoint: endpoint.map_or_else(
                || "Amazon S3".to_owned(),
                |endpoint| without_login(&endpoint).unwrap_or(endpoint),
            ),
        };
        Ok(Self::new(Arc::new(objects), prefix, place))
    }
}

/// The address without a name and a password, where it has them: `scheme://NAME:PASSWORD@host/path`.
fn without_login(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find('/').unwrap_or(rest.len());
    let (_, host) = rest[..end].rsplit_once('@')?;
    Some(format!("{scheme}://{host}{}", &rest[end..]))
}
