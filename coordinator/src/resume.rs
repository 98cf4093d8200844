//! Whether a job may go on from what is in the store.

use perennial_plan::Spec;
use perennial_store::Manifest;

use crate::CoordinatorError;

/// Refuses a checkpoint of another job, with every key that differs, and one after which nothing is left
/// to do.
pub fn check_resume(spec: &Spec, manifest: &Manifest) -> Result<(), CoordinatorError> {
    check_same_job(spec, &manifest.spec)?;
    let epochs = spec.train.epochs;
    if manifest.cursor.epoch >= epochs {
        return Err(CoordinatorError::AlreadyFinished {
            name: spec.name.clone(),
            epochs,
        });
    }
    Ok(())
}

/// Refuses a stored spec whose weights would be others than those of `spec`.
pub fn check_same_job(spec: &Spec, stored: &Spec) -> Result<(), CoordinatorError> {
    let differences = stored.differences(spec);
    if differences.is_empty() {
        return Ok(());
    }
    Err(CoordinatorError::OtherJob {
        name: spec.name.clone(),
        differences,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_job_is_refused_with_every_key_that_differs_and_both_values() {
        let stored = Spec::default();
        let mut asked = Spec::default();
        asked.data.dir = "elsewhere".into();
        asked.checkpoint.every_steps = 10;
        check_same_job(&asked, &stored).unwrap();
        asked.train.batch_size = 32;
        asked.model.name = "casvit_s".into();
        assert_eq!(
            check_same_job(&asked, &stored).unwrap_err().to_string(),
            "job `job` in the store is another job: `model.name` is \"casvit_xs\" there and \"casvit_s\" here, \
             `train.batch_size` is 64 there and 32 here; resume with the same values, or give the job another name"
        );
    }
}
