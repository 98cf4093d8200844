//! Rules of the protocol that both ends compute for themselves: no message carries them.

use std::time::Duration;

use perennial_plan::spec::{Precision, Reduction};
use perennial_plan::{Cursor, Spec};

/// How often either end says that it lives.
pub const HEARTBEAT: Duration = Duration::from_millis(200);

/// Silence after which the other end counts as lost. All others wait for a worker that hangs, while one that
/// is given up too early loses nothing but the time in which it copies what it missed: so it is short.
pub const LEASE: Duration = Duration::from_millis(1000);

/// A coordinator that gave no sign of life for so long does not rule any more, for a standby.
pub const SILENCE: Duration = Duration::from_secs(2);

/// A process that finds so much time between two of its ticks was itself paused, and holds nobody's
/// silence against them.
pub const OWN_PAUSE: Duration = Duration::from_millis(500);

/// The control flags of a sum, by which members agree on what follows the step at hand.
pub mod control {
    /// Write a checkpoint and finish.
    pub const STOP: u64 = 1;
    /// Halt for a change of membership.
    pub const REGROUP: u64 = 2;
    /// Write a checkpoint.
    pub const CHECKPOINT: u64 = 4;
}

/// The end of a worker's numerics class whose processor has tiles that multiply bfloat16. It concerns jobs in bf16 alone.
pub const BF16_TILES: &str = ", bf16 in tiles";

/// The numerics class of a job on a worker that says it has `class`: `f32` and exact sums are what a class is without a
/// word.
pub fn job_numerics(spec: &Spec, class: &str) -> String {
    let kind = worker_kind(class);
    let mut numerics = match spec.train.precision {
        Precision::F32 => kind.to_string(),
        Precision::Bf16 if kind != class => class.to_string(),
        other => format!("{kind}, {}", other.name()),
    };
    if spec.train.reduction == Reduction::Fast {
        numerics.push_str(", fast sums");
    }
    numerics
}

/// What workers of a pool have to have in common, of the class that one says it has.
pub fn worker_kind(class: &str) -> &str {
    class.strip_suffix(BF16_TILES).unwrap_or(class)
}

/// The kind of the workers that a job of this numerics class had.
pub fn worker_kind_of_job<'a>(spec: &Spec, numerics: &'a str) -> &'a str {
    let words = ["", BF16_TILES].map(|class| job_numerics(spec, class));
    let kinds = words
        .iter()
        .filter_map(|words| numerics.strip_suffix(&**words));
    kinds.min_by_key(|kind| kind.len()).unwrap_or(numerics)
}

/// The kinds of parts that make a checkpoint of this job, in the order in which members take them on.
pub fn part_kinds(spec: &Spec) -> &'static [&'static str] {
    if spec.evaluate.is_some() {
        &["scores"]
    } else if spec.ema.decay > 0.0 {
        &["model", "ema", "optimizer"]
    } else {
        &["model", "optimizer"]
    }
}

/// The rank of the member that writes the `index`-th kind of [`part_kinds`].
pub fn part_writer(index: usize, world_size: usize) -> usize {
    index % world_size
}

/// Whether a checkpoint is due once the training stands at `cursor`: at each epoch's end and at every
/// `checkpoint.every_steps`-th global step. A stop writes one as well, unless it is due anyway.
pub fn checkpoint_due(spec: &Spec, cursor: Cursor, steps_per_epoch: u32) -> bool {
    let global_step = cursor.global_step(steps_per_epoch);
    let every = spec.checkpoint.every_steps;
    global_step > 0 && (cursor.step == 0 || (every > 0 && global_step.is_multiple_of(every)))
}

#[cfg(test)]
mod tests {
    use perennial_plan::spec::EvaluateSpec;

    use super::*;

    #[test]
    fn checkpoints_are_due_at_each_epochs_end_and_every_so_many_steps() {
        let mut spec = Spec::default();
        let due = |spec: &Spec| {
            let mut cursor = Cursor::default();
            (0..=10)
                .filter(|_| {
                    let due = checkpoint_due(spec, cursor, 5);
                    cursor = cursor.next(5);
                    due
                })
                .collect::<Vec<u64>>()
        };
        assert_eq!(due(&spec), [5, 10]);
        spec.checkpoint.every_steps = 4;
        assert_eq!(due(&spec), [4, 5, 8, 10]);
    }

    #[test]
    fn what_a_class_does_not_promise_by_itself_is_a_word_of_it() {
        let mut spec = Spec::default();
        assert_eq!(job_numerics(&spec, "gpu"), "gpu");
        spec.train.precision = Precision::Bf16;
        spec.train.reduction = Reduction::Fast;
        assert_eq!(job_numerics(&spec, "gpu"), "gpu, bf16, fast sums");
    }

    #[test]
    fn tiles_concern_jobs_in_bf16_alone() {
        let mut spec = Spec::default();
        let class = "cpu, bf16 in tiles";
        assert_eq!(worker_kind(class), "cpu");
        for (precision, with_tiles, without) in [
            (Precision::F32, "cpu", "cpu"),
            (Precision::Bf16, "cpu, bf16 in tiles", "cpu, bf16"),
            (Precision::F16, "cpu, f16", "cpu, f16"),
        ] {
            spec.train.precision = precision;
            assert_eq!(job_numerics(&spec, class), with_tiles);
            assert_eq!(job_numerics(&spec, "cpu"), without);
            for numerics in [with_tiles, without] {
                assert_eq!(worker_kind_of_job(&spec, numerics), "cpu");
            }
        }
    }

    #[test]
    fn every_part_has_one_writer_and_without_an_average_there_is_no_such_part() {
        let mut spec = Spec::default();
        assert_eq!(part_kinds(&spec), ["model", "ema", "optimizer"]);
        spec.ema.decay = 0.0;
        assert_eq!(part_kinds(&spec), ["model", "optimizer"]);
        spec.evaluate = Some(EvaluateSpec::default());
        assert_eq!(part_kinds(&spec), ["scores"]);
        assert_eq!([0, 1, 2].map(|kind| part_writer(kind, 2)), [0, 1, 0]);
    }
}
