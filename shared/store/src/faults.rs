//! Which faults a store is to suffer, for tests, and how many it has suffered.
//!
//! A fault is a function of the seed, the kind of the operation and its number among those of its kind,
//! so one order of operations always meets the same faults.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Once;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use perennial_plan::random::{Domain, Draw, Stream};

use crate::error::StoreError;

/// The environment variable that makes every store of a process a faulty one.
pub const FAULTS_VARIABLE: &str = "PERENNIAL_STORE_FAULTS";

/// What can happen to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FaultKind {
    /// No answer, and nothing was done.
    Timeout,
    /// 503, and nothing was done.
    Unavailable,
    /// 429, and nothing was done.
    Throttled,
    /// It was done, and then there was no answer: the next attempt finds its own object.
    LostAnswer,
    /// It is done after a pause.
    Slow,
    /// What is read or listed breaks off half-way.
    BrokenBody,
    /// What is written breaks off half-way; nothing is stored.
    BrokenUpload,
    /// A listing leaves out an object that is younger than the delay.
    LateListing,
}

/// What is asked of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    Put,
    Get,
    Head,
    List,
    Delete,
    Copy,
}

/// The faults to inject. As text: `seed=7,rate=0.2,slow=2s,list-delay=3s,only=timeout+lost-answer`.
#[derive(Debug, Clone, PartialEq)]
pub struct Faults {
    pub seed: u64,
    /// How many of the operations suffer one, between 0 and 1.
    pub rate: f64,
    /// How long a slow answer takes; none is slow at zero.
    pub slow: Duration,
    /// An object younger than this is missing from listings. Its age is the clock's here less the store's
    /// time of its last change, which S3 gives in whole seconds.
    pub list_delay: Duration,
    /// The kinds to choose from; all when empty. Late listings depend on `list_delay` alone.
    pub only: Vec<FaultKind>,
    /// Faults happen only while this file is there; without one, always. So they can be switched on and off
    /// while a process runs.
    pub while_file: Option<PathBuf>,
    /// A file that gets one line `KIND OPERATION PATH` for each fault, so that a process can count those
    /// of others.
    pub count_file: Option<PathBuf>,
}

/// How many faults have happened.
#[derive(Debug, Default)]
pub struct FaultCounts {
    by_kind: [AtomicU64; FaultKind::ALL.len()],
    file: Option<PathBuf>,
}

// === impl FaultKind ===

impl FaultKind {
    pub const ALL: [Self; 8] = [
        Self::Timeout,
        Self::Unavailable,
        Self::Throttled,
        Self::LostAnswer,
        Self::Slow,
        Self::BrokenBody,
        Self::BrokenUpload,
        Self::LateListing,
    ];

    /// The word in settings and in the count file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Unavailable => "unavailable",
            Self::Throttled => "throttled",
            Self::LostAnswer => "lost-answer",
            Self::Slow => "slow",
            Self::BrokenBody => "broken-body",
            Self::BrokenUpload => "broken-upload",
            Self::LateListing => "late-listing",
        }
    }

    fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == name)
    }

    /// Whether it can happen to one operation, drawn by chance.
    fn strikes(self, operation: Operation) -> bool {
        let writes = matches!(
            operation,
            Operation::Put | Operation::Delete | Operation::Copy
        );
        match self {
            Self::Timeout | Self::Unavailable | Self::Throttled | Self::Slow => true,
            Self::LostAnswer => writes,
            Self::BrokenBody => matches!(operation, Operation::Get | Operation::List),
            Self::BrokenUpload => operation == Operation::Put,
            Self::LateListing => false,
        }
    }
}

// === impl Operation ===

impl Operation {
    pub const COUNT: usize = 6;

    fn as_str(self) -> &'static str {
        match self {
            Self::Put => "put",
            Self::Get => "get",
            Self::Head => "head",
            Self::List => "list",
            Self::Delete => "delete",
            Self::Copy => "copy",
        }
    }
}

// === impl Faults ===

impl Default for Faults {
    /// None at all.
    fn default() -> Self {
        Self {
            seed: 0,
            rate: 0.0,
            slow: Duration::ZERO,
            list_delay: Duration::ZERO,
            only: Vec::new(),
            while_file: None,
            count_file: None,
        }
    }
}

impl Faults {
    /// Whether faults happen now.
    pub(crate) fn are_on(&self) -> bool {
        let file = self.while_file.as_ref();
        file.is_none_or(|file| file.exists())
    }

    /// The fault of the `number`-th operation of its kind, if it has one.
    pub(crate) fn draw(&self, operation: Operation, number: u64) -> Option<FaultKind> {
        let mut stream = Stream::new(self.seed, Domain::StoreFaults, &[operation as u64, number]);
        if stream.uniform() >= self.rate {
            return None;
        }
        let kinds: Vec<FaultKind> = (FaultKind::ALL.into_iter())
            .filter(|kind| kind.strikes(operation))
            .filter(|kind| *kind != FaultKind::Slow || !self.slow.is_zero())
            .filter(|kind| self.only.is_empty() || self.only.contains(kind))
            .collect();
        if kinds.is_empty() {
            return None;
        }
        Some(kinds[stream.below(kinds.len() as u64) as usize])
    }
}

impl FromStr for Faults {
    type Err = StoreError;

    fn from_str(text: &str) -> Result<Self, StoreError> {
        let refused = |reason: String| StoreError::Faults {
            text: text.to_owned(),
            reason,
        };
        let mut faults = Self::default();
        for setting in text.split(',') {
            let (key, value) = (setting.split_once('='))
                .ok_or_else(|| refused(format!("`{setting}` is not KEY=VALUE")))?;
            let (key, value) = (key.trim(), value.trim());
            let wrong = |wanted: &str| refused(format!("`{key}` must be {wanted}, not `{value}`"));
            match key {
                "seed" => faults.seed = value.parse().map_err(|_| wrong("a whole number"))?,
                "rate" => {
                    let rate = value.parse().ok();
                    faults.rate = (rate.filter(|rate| (0.0..=1.0).contains(rate)))
                        .ok_or_else(|| wrong("between 0 and 1"))?;
                }
                "slow" => faults.slow = duration(value).ok_or_else(|| wrong(DURATION))?,
                "list-delay" => {
                    faults.list_delay = duration(value).ok_or_else(|| wrong(DURATION))?
                }
                "only" => {
                    let kinds = value.split('+').map(FaultKind::named);
                    faults.only = (kinds.collect::<Option<_>>())
                        .ok_or_else(|| wrong(&format!("of {}", names())))?;
                }
                "while-file" => faults.while_file = Some(value.into()),
                "count-file" => faults.count_file = Some(value.into()),
                _ => {
                    return Err(refused(format!(
                        "`{key}` is unknown; there are seed, rate, slow, list-delay, only, while-file and count-file"
                    )));
                }
            }
        }
        Ok(faults)
    }
}

const DURATION: &str = "a time such as `2s` or `300ms`";

fn duration(text: &str) -> Option<Duration> {
    if let Some(milliseconds) = text.strip_suffix("ms") {
        return milliseconds.parse().ok().map(Duration::from_millis);
    }
    let seconds = text.strip_suffix('s')?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}

fn names() -> String {
    FaultKind::ALL.map(FaultKind::as_str).join("+")
}

// === impl FaultCounts ===

impl FaultCounts {
    pub(crate) fn new(faults: &Faults) -> Self {
        Self {
            file: faults.count_file.clone(),
            ..Self::default()
        }
    }

    /// How many of this kind have happened.
    pub fn of(&self, kind: FaultKind) -> u64 {
        self.by_kind[kind as usize].load(Ordering::Relaxed)
    }

    /// How many of all kinds.
    pub fn total(&self) -> u64 {
        FaultKind::ALL.into_iter().map(|kind| self.of(kind)).sum()
    }

    pub(crate) fn record(&self, kind: FaultKind, operation: Operation, path: &str) {
        self.by_kind[kind as usize].fetch_add(1, Ordering::Relaxed);
        let operation = operation.as_str();
        let kind = kind.as_str();
        tracing::debug!(kind, operation, path, "a fault is injected into the store");
        let Some(file) = &self.file else {
            return;
        };
        // One write to the end, so that lines of several processes do not mix.
        let line = format!("{kind} {operation} {path}\n");
        let opened = OpenOptions::new().create(true).append(true).open(file);
        if let Err(error) = opened.and_then(|mut file| file.write_all(line.as_bytes())) {
            static ONCE: Once = Once::new();
            let file = file.display();
            ONCE.call_once(|| tracing::warn!(%file, %error, "faults of the store are not counted"));
        }
    }

    /// What the count file of any number of processes says; nothing when it is not there.
    pub fn read_file(path: &Path) -> io::Result<BTreeMap<FaultKind, u64>> {
        let text = match std::fs::read_to_string(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            read => read?,
        };
        let mut counts = BTreeMap::new();
        let kinds = text.lines().filter_map(|line| line.split(' ').next());
        for kind in kinds.filter_map(FaultKind::named) {
            *counts.entry(kind).or_default() += 1;
        }
        Ok(counts)
    }
}
