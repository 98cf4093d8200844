//! Steps as traces for a collector of OpenTelemetry, over OTLP and gRPC.
//!
//! A step is one trace for all its members: the trace's id and that of its root are hashes of the job and the step, so
//! nothing has to be passed between processes. The member of rank 0 sends the root `step`; each member sends
//! `member` below it, and below that its phases.

use std::cell::Cell;
use std::fmt::Debug;
use std::sync::OnceLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use opentelemetry::trace::{
    Span, SpanBuilder, SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState,
    Tracer, TracerProvider,
};
use opentelemetry::{Context, KeyValue};
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{IdGenerator, RandomIdGenerator, SdkTracer, SdkTracerProvider};
use perennial_proto::STEP_TRACE;
use perennial_store::tensors::sha256;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer;
use tracing_subscriber::registry::LookupSpan;

use crate::settings::SettingsError;

/// Where spans go; the exporter reads these, and others of its specification, itself.
const ENDPOINTS: [&str; 2] = [
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_EXPORTER_OTLP_ENDPOINT",
];
/// How long the last spans may take to leave.
const FLUSH: Duration = Duration::from_secs(3);

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Makes spans of the events that tell of steps; none unless an endpoint is named.
pub fn layer<S>() -> Result<Option<impl Layer<S>>, SettingsError>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    let named = ENDPOINTS
        .into_iter()
        .find_map(|name| Some((name, std::env::var(name).ok().filter(|it| !it.is_empty())?)));
    let Some((name, endpoint)) = named else {
        return Ok(None);
    };
    let refused = || SettingsError::Variable {
        name,
        value: endpoint.clone(),
        expected: "the address of a collector that speaks OTLP over gRPC, `http://HOST:4317`",
    };
    // Its connection lives on this runtime, as long as the process.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("otlp")
        .enable_all()
        .build()
        .map_err(|_| refused())?;
    let exporter = {
        let _inside = runtime.enter();
        SpanExporter::builder().with_tonic().build()
    };
    let exporter = exporter.map_err(|_| refused())?;
    std::mem::forget(runtime);
    let provider = SdkTracerProvider::builder()
        .with_id_generator(Ids::default())
        .with_resource(Resource::builder().with_service_name("perennial").build())
        .with_batch_exporter(exporter)
        .build();
    let tracer = provider.tracer("perennial");
    let _ = PROVIDER.set(provider);
    let steps = Targets::new().with_target(STEP_TRACE, tracing::Level::TRACE);
    Ok(Some(Steps { tracer }.with_filter(steps)))
}

/// Lets the last spans leave.
pub fn finish() {
    if let Some(provider) = PROVIDER.get() {
        let _ = provider.shutdown_with_timeout(FLUSH);
    }
}

struct Steps {
    tracer: SdkTracer,
}

/// What an event says of a member's step: see `perennial_proto::STEP_TRACE`.
#[derive(Debug, Default)]
struct Told {
    job: String,
    generation: u64,
    member: String,
    rank: u64,
    global_step: u64,
    /// Nanoseconds since 1970.
    began: u64,
    /// Nanoseconds.
    data: u64,
    compute: u64,
    reduce: u64,
    checkpoint: u64,
    optimizer: u64,
}

// === impl Steps ===

impl<S> Layer<S> for Steps
where
    S: Subscriber + for<'span> LookupSpan<'span>,
{
    fn on_event(&self, event: &Event<'_>, _: layer::Context<'_, S>) {
        let mut told = Told::default();
        event.record(&mut told);
        let (trace, root) = ids(&told.job, told.global_step);
        let end = told.began + told.phases().iter().map(|(_, length)| length).sum::<u64>();
        if told.rank == 0 {
            IDS.set(Some((trace, root)));
            self.span("step", &told, (told.began, end), &Context::new());
            IDS.set(None);
        }
        let above = SpanContext::new(
            trace,
            root,
            TraceFlags::SAMPLED,
            true,
            TraceState::default(),
        );
        let above = Context::new().with_remote_span_context(above);
        let member = self.span("member", &told, (told.began, end), &above);
        let below = Context::new().with_remote_span_context(member);
        let mut at = told.began;
        for (phase, length) in told.phases() {
            if length > 0 {
                self.span(phase, &told, (at, at + length), &below);
            }
            at += length;
        }
    }
}

impl Steps {
    fn span(
        &self,
        name: &'static str,
        told: &Told,
        (start, end): (u64, u64),
        above: &Context,
    ) -> SpanContext {
        let time = |nanoseconds| UNIX_EPOCH + Duration::from_nanos(nanoseconds);
        let builder = SpanBuilder::from_name(name)
            .with_start_time(time(start))
            .with_attributes([
                KeyValue::new("job", told.job.clone()),
                KeyValue::new("generation", told.generation as i64),
                KeyValue::new("member", told.member.clone()),
                KeyValue::new("step", told.global_step as i64),
            ]);
        let mut span = self.tracer.build_with_context(builder, above);
        let context = span.span_context().clone();
        let end: SystemTime = time(end);
        span.end_with_timestamp(end);
        context
    }
}

// === impl Told ===

impl Told {
    /// In the order in which they come. Pictures are waited for between slots; all that waiting is put first.
    fn phases(&self) -> [(&'static str, u64); 5] {
        [
            ("data", self.data),
            ("compute", self.compute),
            ("reduce", self.reduce),
            ("checkpoint", self.checkpoint),
            ("optimizer", self.optimizer),
        ]
    }
}

impl Visit for Told {
    fn record_debug(&mut self, _: &Field, _: &dyn Debug) {}

    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "job" => self.job = value.to_string(),
            "member" => self.member = value.to_string(),
            _ => {}
        }
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        let place = match field.name() {
            "generation" => &mut self.generation,
            "rank" => &mut self.rank,
            "global_step" => &mut self.global_step,
            "began" => &mut self.began,
            "data" => &mut self.data,
            "compute" => &mut self.compute,
            "reduce" => &mut self.reduce,
            "checkpoint" => &mut self.checkpoint,
            "optimizer" => &mut self.optimizer,
            _ => return,
        };
        *place = value;
    }
}

/// The ids of a step's trace and of its root, equal in every process.
fn ids(job: &str, global_step: u64) -> (TraceId, SpanId) {
    let digits = sha256(format!("{job}/{global_step}").as_bytes());
    let trace = u128::from_str_radix(&digits[..32], 16).unwrap_or(1);
    let root = u64::from_str_radix(&digits[32..48], 16).unwrap_or(1);
    (
        TraceId::from_bytes(trace.to_be_bytes()),
        SpanId::from_bytes(root.to_be_bytes()),
    )
}

thread_local! {
    /// Those of the next span on this thread, where they are not to be drawn.
    static IDS: Cell<Option<(TraceId, SpanId)>> = const { Cell::new(None) };
}

#[derive(Debug, Default)]
struct Ids(RandomIdGenerator);

// === impl Ids ===

impl IdGenerator for Ids {
    fn new_trace_id(&self) -> TraceId {
        match IDS.get() {
            Some((trace, _)) => trace,
            None => self.0.new_trace_id(),
        }
    }

    fn new_span_id(&self) -> SpanId {
        match IDS.get() {
            Some((_, root)) => root,
            None => self.0.new_span_id(),
        }
    }
}
