//! What coordinator and workers say to each other ([`v1`]), and the rules of it that both ends must
//! know ([`rules`]); and how a coordinator is reached ([`dial`]).

pub mod dial;
mod generation;
pub mod rules;

/// The messages and services of `perennial/v1/coordinator.proto`.
pub mod v1 {
    tonic::include_proto!("perennial.v1");

    macro_rules! kinds {
        ($message:ident, $module:ident: $($kind:ident),*) => {
            $(impl From<$kind> for $message {
                /// Without a term: whoever sends it adds its own.
                fn from(kind: $kind) -> Self {
                    Self { term: 0, kind: Some($module::Kind::$kind(kind)) }
                }
            })*
        };
    }

    kinds!(WorkerMessage, worker_message: Hello, Ready, StepDone, EpochDone, PartWritten,
        CheckpointFailed, Finished, Failed, Heartbeat, Standing, CaughtUp, FollowFailed, Drain,
        DeviceMemory);
    kinds!(CoordinatorMessage, coordinator_message: Welcome, Refused, Start, Stop, End, Heartbeat, Halt,
        Regroup, Follow, Ack, Release, Wait);
}

/// The target of spans whose fields (`job`, `generation`, `member`) stand on each line of a structured log.
pub const LOG_CONTEXT: &str = "perennial::context";

/// The target of an event for each step of a member, from which traces are made: `job`, `generation`, `member`, `rank`,
/// `global_step`, when it `began` (nanoseconds since 1970), and the nanoseconds of its phases `data`, `compute`, `reduce`,
/// `checkpoint` and `optimizer`.
pub const STEP_TRACE: &str = "perennial::step";

/// The largest message that either end takes, in bytes: an epoch's evaluation grows with the data.
pub const MAX_MESSAGE_BYTES: usize = 256 << 20;

/// The version of the program; coordinator and workers must have the same.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
