//! Cross-entropy against soft targets. Label smoothing and mixing are in the targets.

/// The cross-entropy of each row, summed over the rows; `gradient` receives the gradient of that sum with
/// respect to the logits, `softmax * sum(target) - target`.
///
/// `logits`, `targets` and `gradient` are `[rows, classes]`. Each row is computed in 64 bits.
pub fn soft_target_cross_entropy(
    logits: &[f32],
    targets: &[f32],
    classes: usize,
    gradient: &mut [f32],
) -> f64 {
    assert_eq!(logits.len(), targets.len(), "one target for each logit");
    assert_eq!(logits.len(), gradient.len(), "one gradient for each logit");
    let rows = logits
        .chunks_exact(classes)
        .zip(targets.chunks_exact(classes))
        .zip(gradient.chunks_exact_mut(classes));
    let mut loss = 0.0;
    for ((logits, targets), gradient) in rows {
        let normalizer = log_sum_exp(logits);
        let mass: f64 = targets.iter().map(|target| f64::from(*target)).sum();
        for ((logit, target), gradient) in logits.iter().zip(targets).zip(gradient) {
            let log_probability = f64::from(*logit) - normalizer;
            let target = f64::from(*target);
            loss -= target * log_probability;
            *gradient = (log_probability.exp() * mass - target) as f32;
        }
    }
    loss
}

/// The probabilities `[rows, classes]` of logits `[rows, classes]`.
pub fn softmax(logits: &[f32], classes: usize) -> Vec<f32> {
    logits
        .chunks_exact(classes)
        .flat_map(|row| {
            let normalizer = log_sum_exp(row);
            row.iter()
                .map(move |logit| (f64::from(*logit) - normalizer).exp() as f32)
        })
        .collect()
}

fn log_sum_exp(row: &[f32]) -> f64 {
    let largest = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let largest = f64::from(largest);
    let sum: f64 = row
        .iter()
        .map(|logit| (f64::from(*logit) - largest).exp())
        .sum();
    largest + sum.ln()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn huge_logits_give_finite_losses_and_gradients() {
        let mut gradient = [0.0; 6];
        let logits = [1e30, 0.0, -1e30, -3e4, 3e4, 0.0];
        let targets = [1.0, 0.0, 0.0, 0.0, 1.0, 0.0];
        let loss = soft_target_cross_entropy(&logits, &targets, 3, &mut gradient);
        assert_eq!(loss, 0.0);
        assert_eq!(gradient, [0.0; 6]);
    }

    #[test]
    fn a_logit_that_is_not_a_number_makes_the_loss_not_a_number() {
        let mut gradient = [0.0; 3];
        let loss =
            soft_target_cross_entropy(&[0.0, f32::NAN, 1.0], &[1.0, 0.0, 0.0], 3, &mut gradient);
        assert!(loss.is_nan());
        assert!(gradient.iter().all(|gradient| gradient.is_nan()));
    }

    #[test]
    fn the_gradient_is_the_slope_of_the_loss() {
        let logits = [0.3, -1.2, 2.0, 0.7];
        let targets = [0.1, 0.5, 0.25, 0.4];
        let mut gradient = [0.0; 4];
        soft_target_cross_entropy(&logits, &targets, 4, &mut gradient);
        let step = 1.0 / 256.0;
        for index in 0..4 {
            let loss_at = |shift: f32| {
                let mut moved = logits;
                moved[index] += shift;
                soft_target_cross_entropy(&moved, &targets, 4, &mut [0.0; 4])
            };
            let slope = (loss_at(step) - loss_at(-step)) / (2.0 * f64::from(step));
            assert!((slope - f64::from(gradient[index])).abs() < 1e-5);
        }
    }

    #[test]
    fn probabilities_sum_to_one_and_follow_the_logits() {
        let probabilities = softmax(&[1.0, 2.0, 3.0, -1e30, 0.0, 0.0], 3);
        let expected = [0.09003057, 0.24472848, 0.66524094, 0.0, 0.5, 0.5];
        for (found, expected) in probabilities.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-7, "{probabilities:?}");
        }
    }
}
