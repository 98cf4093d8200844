//! The loss scale of a step is a function of the job and of the steps before it.

use perennial_plan::{LossScale, Spec};

use super::Finding;
use super::account::Known;

/// The first step whose scale is not what the steps before it make it, or whose word on its being skipped is not that of
/// its gradient. `log` is the log's folder.
pub(super) fn check(spec: &Spec, log: &str, known: &Known) -> Option<Finding> {
    let mut state = LossScale::of(&spec.train);
    let seen = (0..known.contiguous()).filter_map(|step| known.steps.get(&step));
    for step in seen.map(|seen| &seen.record) {
        let expected = state.map(|state| f64::from(state.scale));
        if step.loss_scale != expected {
            let words = |scale: Option<f64>| scale.map_or("none".to_string(), |it| it.to_string());
            let (cursor, found) = (step.cursor(), words(step.loss_scale));
            let expected = words(expected);
            return Some(Finding::new(
                log,
                format!(
                    "{cursor} has the loss scale {found}, the steps before it make it {expected}"
                ),
            ));
        }
        let overflowed = state.is_some() && !step.grad_norm.is_finite();
        if step.skipped != overflowed {
            let (cursor, norm) = (step.cursor(), step.grad_norm);
            let did = if step.skipped { "skipped" } else { "taken" };
            return Some(Finding::new(
                log,
                format!("{cursor} was {did}, where its gradient's norm is {norm}"),
            ));
        }
        state = state.map(|state| state.after(step.skipped));
    }
    None
}

#[cfg(test)]
mod tests {
    use perennial_plan::ledger::StepRecord;
    use perennial_plan::spec::Precision;

    use super::super::account::Seen;
    use super::*;

    /// What is found in the steps of a job in f16 after `doctor` was at them: the second one was skipped.
    fn found(precision: Precision, doctor: impl FnOnce(&mut [StepRecord])) -> Option<String> {
        let mut spec = Spec::default();
        spec.train.precision = precision;
        let scales = [65536.0, 65536.0, 32768.0, 32768.0];
        let mut records: Vec<StepRecord> = (0..)
            .zip(scales)
            .map(|(step, scale)| StepRecord {
                step,
                loss_scale: Some(scale),
                skipped: step == 1,
                grad_norm: if step == 1 { f64::INFINITY } else { 1.0 },
                ..StepRecord::default()
            })
            .collect();
        doctor(&mut records);
        let mut known = Known::default();
        for (position, record) in (0..).zip(records) {
            known.steps.insert(position, Seen { position, record });
        }
        check(&spec, "log", &known).map(|finding| finding.message)
    }

    #[test]
    fn a_loss_scale_that_does_not_follow_from_the_steps_before_it_is_named() {
        assert_eq!(found(Precision::F16, |_| ()), None);
        let finds = |message: Option<String>, piece: &str| {
            assert!(
                message.as_ref().is_some_and(|it| it.contains(piece)),
                "{message:?}"
            );
        };
        finds(
            found(Precision::F16, |steps| steps[2].loss_scale = Some(65536.0)),
            "epoch 0 step 2 has the loss scale 65536, the steps before it make it 32768",
        );
        finds(
            found(Precision::F16, |steps| steps[1].skipped = false),
            "epoch 0 step 1 was taken, where its gradient's norm is inf",
        );
        finds(
            found(Precision::F16, |steps| steps[3].skipped = true),
            "epoch 0 step 3 was skipped, where its gradient's norm is 1",
        );
        finds(
            found(Precision::F32, |_| ()),
            "has the loss scale 65536, the steps before it make it none",
        );
    }
}
