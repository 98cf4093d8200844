//! What is logged to stderr: lines for people, or one JSON object a line.

use std::fmt::Debug;
use std::io::{IsTerminal, Write};
use std::sync::{Mutex, PoisonError};

use perennial_proto::LOG_CONTEXT;
use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
#[cfg(not(feature = "otlp"))]
use tracing_subscriber::layer::Identity;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

use crate::commands::bench;
use crate::settings::SettingsError;

/// What is logged: `debug`, or `info,perennial_coordinator=trace`; without it, warnings.
const LEVEL: &str = "PERENNIAL_LOG";
/// How: `text` or `json`.
const FORMAT: &str = "PERENNIAL_LOG_FORMAT";
/// These stand on every line of JSON, `null` where they are not known.
const CONTEXT_KEYS: [&str; 3] = ["job", "generation", "member"];

/// CubeCL, which warns of what it tries once more and of what it then returns as an error: that says what to do.
const OF_KERNELS: &str = "cubecl";

/// `profiled`: the spans of the profile are recorded, too.
pub fn start(profiled: bool) -> Result<(), SettingsError> {
    let wished = std::env::var(LEVEL).ok();
    let filter = wished
        .and_then(|targets| targets.parse().ok())
        .unwrap_or_else(|| {
            let warnings = Targets::new().with_default(LevelFilter::WARN);
            warnings.with_target(OF_KERNELS, LevelFilter::ERROR)
        });
    let is_json = is_json()?;
    let text = (!is_json).then(|| {
        tracing_subscriber::fmt::layer()
            .with_writer(std::io::stderr)
            .with_ansi(std::io::stderr().is_terminal())
            .with_target(false)
            .with_filter(filter.clone().with_target(LOG_CONTEXT, LevelFilter::OFF))
    });
    let lines = is_json
        .then(|| Lines::default().with_filter(filter.with_target(LOG_CONTEXT, LevelFilter::TRACE)));
    tracing_subscriber::registry()
        .with(text)
        .with(lines)
        .with(profiled.then(bench::recorder))
        .with(traces()?)
        .init();
    Ok(())
}

/// Steps as spans for a collector.
#[cfg(feature = "otlp")]
fn traces<S>() -> Result<Option<impl Layer<S>>, SettingsError>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    crate::otlp::layer()
}

#[cfg(not(feature = "otlp"))]
fn traces() -> Result<Option<Identity>, SettingsError> {
    Ok(None)
}

/// Before the process ends: what is on its way leaves.
pub fn finish() {
    #[cfg(feature = "otlp")]
    crate::otlp::finish();
}

/// Whether lines are JSON.
pub fn is_json() -> Result<bool, SettingsError> {
    match std::env::var(FORMAT) {
        Err(std::env::VarError::NotPresent) => Ok(false),
        Ok(format) if format == "text" => Ok(false),
        Ok(format) if format == "json" => Ok(true),
        Ok(value) => Err(refused(value)),
        Err(std::env::VarError::NotUnicode(value)) => {
            Err(refused(value.to_string_lossy().into_owned()))
        }
    }
}

fn refused(value: String) -> SettingsError {
    SettingsError::Variable {
        name: FORMAT,
        value,
        expected: "`text` or `json`",
    }
}

/// Writes events as JSON: `timestamp`, `level`, `target`, `message`, the event's own fields, and those of the
/// context that it is in. An event outside every context is in the only one that there is: a process that serves
/// one job has many threads.
#[derive(Default)]
struct Lines {
    /// Those that are open.
    contexts: Mutex<Vec<(Id, Fields)>>,
}

#[derive(Debug, Clone, Default)]
struct Fields(Map<String, Value>);

// === impl Lines ===

impl Lines {
    fn with_contexts<T>(&self, work: impl FnOnce(&mut Vec<(Id, Fields)>) -> T) -> T {
        work(&mut self.contexts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The fields of the context that holds `within`, the spans around an event from the inside out.
    fn context(&self, within: impl Iterator<Item = Id>) -> Fields {
        self.with_contexts(|contexts| {
            for id in within {
                if let Some((_, fields)) = contexts.iter().find(|(open, _)| *open == id) {
                    return fields.clone();
                }
            }
            match contexts.as_slice() {
                [(_, only)] => only.clone(),
                _ => Fields::default(),
            }
        })
    }
}

impl<S> Layer<S> for Lines
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, _: Context<'_, S>) {
        if attributes.metadata().target() == LOG_CONTEXT {
            let mut fields = Fields::default();
            attributes.record(&mut fields);
            self.with_contexts(|contexts| contexts.push((id.clone(), fields)));
        }
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        self.with_contexts(|contexts| {
            if let Some((_, fields)) = contexts.iter_mut().find(|(open, _)| open == id) {
                values.record(fields);
            }
        });
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        self.with_contexts(|contexts| contexts.retain(|(open, _)| *open != id));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let scope = context.event_scope(event).into_iter().flatten();
        let known = self.context(scope.map(|span| span.id()));
        let mut timestamp = String::new();
        let _ = SystemTime.format_time(&mut Writer::new(&mut timestamp));
        let metadata = event.metadata();
        let mut line = Fields::default();
        for (key, value) in [
            ("timestamp", timestamp.trim()),
            ("level", metadata.level().as_str()),
            ("target", metadata.target()),
        ] {
            line.0.insert(key.to_string(), json!(value));
        }
        for key in CONTEXT_KEYS {
            line.0.insert(key.to_string(), Value::Null);
        }
        line.0.extend(known.0);
        event.record(&mut line);
        let text = Value::Object(line.0).to_string() + "\n";
        // One write a line: other processes write here, too.
        let _ = std::io::stderr().lock().write_all(text.as_bytes());
    }
}

impl Fields {
    fn set(&mut self, field: &Field, value: Value) {
        self.0.insert(field.name().to_string(), value);
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.set(field, json!(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.set(field, json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.set(field, json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.set(field, json!(value));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.set(field, json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.set(field, json!(value));
    }
}
