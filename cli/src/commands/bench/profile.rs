//! Where the time of a step goes.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use perennial_worker::bench::{CorePeak, PROFILE};
use serde_json::{Value, json};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::span::{Attributes, Id};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::Context;
use tracing_subscriber::registry::LookupSpan;

use crate::output::table;

/// A step that is timed, and the work of a slot: they hold the other operations.
const STEP: &str = "step";
const SLOT: &str = "slot";

/// An operation that is over.
#[derive(Debug, Clone)]
struct Done {
    name: String,
    flop: u64,
    bytes: u64,
    thread: u32,
    began: Instant,
    time: Duration,
}

/// What the recorder saw in this process.
static DONE: Mutex<Vec<Done>> = Mutex::new(Vec::new());

fn done() -> MutexGuard<'static, Vec<Done>> {
    DONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records the spans of the profile.
pub fn recorder<S>() -> impl Layer<S>
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    Recorder.with_filter(Targets::new().with_target(PROFILE, LevelFilter::TRACE))
}

struct Recorder;

impl<S> Layer<S> for Recorder
where
    S: tracing::Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let mut operation = Done {
            name: String::new(),
            flop: 0,
            bytes: 0,
            thread: thread(),
            began: Instant::now(),
            time: Duration::ZERO,
        };
        attributes.record(&mut operation);
        if let Some(span) = context.span(id) {
            span.extensions_mut().insert(operation);
        }
    }

    fn on_close(&self, id: Id, context: Context<'_, S>) {
        let operation = context
            .span(&id)
            .and_then(|span| span.extensions_mut().remove::<Done>());
        if let Some(mut operation) = operation {
            operation.time = operation.began.elapsed();
            done().push(operation);
        }
    }
}

impl Visit for Done {
    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}

    fn record_str(&mut self, _: &Field, value: &str) {
        self.name = value.to_string();
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        match field.name() {
            "flop" => self.flop = value,
            _ => self.bytes = value,
        }
    }
}

/// A small number for each thread.
fn thread() -> u32 {
    static THREADS: AtomicU32 = AtomicU32::new(0);
    thread_local!(static THREAD: Cell<Option<u32>> = const { Cell::new(None) });
    let number = THREAD.get();
    let number = number.unwrap_or_else(|| THREADS.fetch_add(1, Ordering::Relaxed));
    THREAD.set(Some(number));
    number
}

/// The timed steps of a run.
pub struct Profile {
    peak: CorePeak,
    threads: usize,
    steps: usize,
    done: Vec<Done>,
}

/// All operations of one name.
#[derive(Debug, Default)]
struct Sum {
    count: usize,
    seconds: f64,
    flop: f64,
    bytes: f64,
}

// === impl Profile ===

impl Profile {
    /// What was recorded until now.
    pub fn recorded(peak: CorePeak, threads: usize) -> Self {
        Self::of(std::mem::take(&mut *done()), peak, threads)
    }

    /// Warm-up counts for nothing.
    fn of(mut done: Vec<Done>, peak: CorePeak, threads: usize) -> Self {
        let steps = done.iter().filter(|operation| operation.name == STEP);
        let first = steps.clone().map(|step| step.began).min();
        let count = steps.count();
        done.retain(|operation| first.is_some_and(|first| operation.began >= first));
        Self {
            peak,
            threads,
            steps: count,
            done,
        }
    }

    /// The sums by name; what no operation accounts for, in the slots and beside them. All of it is the time
    /// that all cores had, in seconds.
    fn sums(&self) -> (BTreeMap<&str, Sum>, f64) {
        let mut sums: BTreeMap<&str, Sum> = BTreeMap::new();
        for operation in &self.done {
            let sum = sums.entry(&operation.name).or_default();
            sum.count += 1;
            sum.seconds += operation.time.as_secs_f64();
            sum.flop += operation.flop as f64;
            sum.bytes += operation.bytes as f64;
        }
        let all = self.threads as f64 * sums.remove(STEP).map_or(0.0, |sum| sum.seconds);
        let slots = sums.remove(SLOT).unwrap_or_default().seconds;
        // Kernels count bytes; what is outside of the slots counts nothing.
        let kernels = |sum: &&Sum| sum.bytes > 0.0;
        let in_kernels: f64 = sums.values().filter(kernels).map(|sum| sum.seconds).sum();
        let beside: f64 = sums
            .values()
            .filter(|sum| !kernels(sum))
            .map(|sum| sum.seconds)
            .sum();
        let rest = |seconds| Sum {
            seconds,
            ..Sum::default()
        };
        sums.insert(
            "(the rest of the slots)",
            rest((slots - in_kernels).max(0.0)),
        );
        sums.insert("(cores that wait)", rest((all - slots - beside).max(0.0)));
        (sums, all)
    }

    /// For programs.
    pub fn record(&self) -> Value {
        let (sums, all) = self.sums();
        let steps = self.steps.max(1) as f64;
        let operations = sums.iter().map(|(name, sum)| {
            json!({
                "name": name,
                "calls": sum.count as f64 / steps,
                "ms": 1e3 * sum.seconds / steps,
                "share": sum.seconds / all,
                "flop_per_second": sum.flop / sum.seconds,
                "bytes_per_second": sum.bytes / sum.seconds,
            })
        });
        json!({
            "peak_flop_per_second": self.peak.flops,
            "peak_bytes_per_second": self.peak.bytes,
            "operations": operations.collect::<Vec<_>>(),
        })
    }

    /// In the format of Chrome's trace viewer, which Perfetto reads too: the last step.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let steps = self.done.iter().filter(|operation| operation.name == STEP);
        let last = steps.map(|step| step.began).max();
        let events = self.done.iter().filter_map(|operation| {
            let since = operation.began.checked_duration_since(last?)?;
            let seconds = operation.time.as_secs_f64();
            Some(json!({
                "name": operation.name,
                "ph": "X",
                "pid": 1,
                "tid": operation.thread,
                "ts": since.as_secs_f64() * 1e6,
                "dur": seconds * 1e6,
                "args": {
                    "flop": operation.flop,
                    "bytes": operation.bytes,
                    "GFLOP/s": operation.flop as f64 / seconds / 1e9,
                    "GB/s": operation.bytes as f64 / seconds / 1e9,
                },
            }))
        });
        let trace = json!({ "traceEvents": events.collect::<Vec<_>>() });
        std::fs::write(path, trace.to_string())
            .with_context(|| format!("cannot write `{}`", path.display()))
    }
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sums, all) = self.sums();
        let steps = self.steps.max(1) as f64;
        let header = [
            "operation",
            "calls",
            "ms a step",
            "share",
            "GFLOP/s",
            "of peak",
            "GB/s",
            "of peak",
        ];
        let mut rows = vec![header.map(str::to_string).to_vec()];
        let mut sums: Vec<(&str, Sum)> = sums.into_iter().collect();
        sums.sort_by(|(_, a), (_, b)| b.seconds.total_cmp(&a.seconds));
        for (name, sum) in sums {
            let rate = |amount: f64, peak: f64| match amount > 0.0 {
                true => [
                    format!("{:.1}", amount / sum.seconds / 1e9),
                    format!("{:.0} %", 100.0 * amount / sum.seconds / peak),
                ],
                false => ["".to_string(), "".to_string()],
            };
            let mut row = vec![
                name.to_string(),
                format!("{:.0}", sum.count as f64 / steps),
                format!("{:.2}", 1e3 * sum.seconds / steps),
                format!("{:.1} %", 100.0 * sum.seconds / all),
            ];
            row.extend(rate(sum.flop, self.peak.flops));
            row.extend(rate(sum.bytes, self.peak.bytes));
            rows.push(row);
        }
        let (flops, bytes) = (self.peak.flops / 1e9, self.peak.bytes / 1e9);
        write!(
            f,
            "{}\nms of all {} cores together; a core's peak: {flops:.0} GFLOP/s, {bytes:.1} GB/s",
            table(&rows).trim_end(),
            self.threads
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PEAK: CorePeak = CorePeak {
        flops: 100e9,
        bytes: 10e9,
    };

    fn operation(name: &str, began: Instant, ms: (u64, u64), flop: u64, bytes: u64) -> Done {
        Done {
            name: name.into(),
            flop,
            bytes,
            thread: 0,
            began: began + Duration::from_millis(ms.0),
            time: Duration::from_millis(ms.1),
        }
    }

    #[test]
    fn the_time_of_all_cores_is_accounted_for() {
        let zero = Instant::now();
        let done = vec![
            operation("linear", zero, (0, 50), 1, 1),
            operation(STEP, zero, (100, 100), 0, 0),
            operation(SLOT, zero, (100, 80), 0, 0),
            operation("linear", zero, (110, 30), 1_500_000_000, 60_000_000),
            operation("linear", zero, (140, 30), 1_500_000_000, 60_000_000),
            operation("optimizer", zero, (180, 10), 0, 0),
        ];
        let profile = Profile::of(done, PEAK, 2);
        let (sums, all) = profile.sums();
        assert_eq!(all, 0.2);
        let milliseconds = |name: &str| (1e3 * sums[name].seconds).round();
        assert_eq!(milliseconds("linear"), 60.0);
        assert_eq!(milliseconds("optimizer"), 10.0);
        assert_eq!(milliseconds("(the rest of the slots)"), 20.0);
        assert_eq!(milliseconds("(cores that wait)"), 110.0);
        let text = profile.to_string();
        let linear = text
            .lines()
            .find(|line| line.starts_with("linear"))
            .unwrap();
        let words: Vec<&str> = linear.split_whitespace().collect();
        assert_eq!(
            words,
            [
                "linear", "2", "60.00", "30.0", "%", "50.0", "50", "%", "2.0", "20", "%"
            ]
        );
    }

    #[test]
    fn a_trace_has_the_last_step_alone() {
        let zero = Instant::now();
        let done = vec![
            operation(STEP, zero, (0, 10), 0, 0),
            operation("linear", zero, (1, 2), 8, 4),
            operation(STEP, zero, (10, 10), 0, 0),
            operation("gelu", zero, (13, 2), 8, 4),
        ];
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("trace.json");
        Profile::of(done, PEAK, 1).write(&path).unwrap();
        let trace: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
        let names = trace["traceEvents"].as_array().unwrap().iter();
        let names: Vec<&str> = names.map(|event| event["name"].as_str().unwrap()).collect();
        assert_eq!(names, [STEP, "gelu"]);
        assert_eq!(trace["traceEvents"][1]["ts"], 3000.0);
        assert_eq!(trace["traceEvents"][1]["dur"], 2000.0);
    }
}
