//! Against scikit-learn: text to the byte, numbers to 1e-12.

use perennial_report::{
    ClassificationReport, Overall, Scores, classification_report, confusion_matrix,
};
use serde_json::Value;

const FIXTURE: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../../shared/fixtures/utils/classification_report.json"
);

fn splitmix64(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn hash(name: &str, index: u64) -> u64 {
    let start = name.bytes().fold(0xcbf2_9ce4_8422_2325u64, |h, byte| {
        (h ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    splitmix64(start.wrapping_add(index))
}

/// The labels that the fixture's formula describes.
fn labels(fixture: &Value) -> (Vec<u32>, Vec<u32>) {
    let salt = fixture["salt"].as_str().unwrap();
    let classes = fixture["num_classes"].as_u64().unwrap();
    let count = fixture["n"].as_u64().unwrap();
    let truth: Vec<u32> = (0..count)
        .map(|i| (hash(&format!("y_true{salt}"), i) % classes) as u32)
        .collect();
    let predicted = truth
        .iter()
        .zip(0..)
        .map(|(&truth, i)| {
            let h = hash(&format!("y_pred{salt}"), i);
            if h % 100 < 80 {
                truth
            } else {
                ((h >> 32) % classes) as u32
            }
        })
        .collect();
    (truth, predicted)
}

fn replace(labels: &[u32], from: u32, to: u32) -> Vec<u32> {
    labels
        .iter()
        .map(|&label| if label == from { to } else { label })
        .collect()
}

fn close(found: f64, expected: &Value, what: &str) {
    let expected = expected.as_f64().unwrap();
    assert!(
        (found - expected).abs() <= 1e-12,
        "{what}: {found} is not {expected}"
    );
}

fn scores_close(found: &Scores, expected: &Value, what: &str) {
    close(found.precision, &expected["precision"], what);
    close(found.recall, &expected["recall"], what);
    close(found.f1_score, &expected["f1-score"], what);
    assert_eq!(
        found.support as f64,
        expected["support"].as_f64().unwrap(),
        "{what}"
    );
}

#[test]
fn every_case_of_the_fixture_is_equal_to_the_byte() {
    let Ok(json) = std::fs::read_to_string(FIXTURE) else {
        return built_in();
    };
    let fixture: Value = serde_json::from_str(&json).unwrap();
    let target_names: Vec<String> =
        serde_json::from_value(fixture["target_names"].clone()).unwrap();
    let (truth, predicted) = labels(&fixture);
    let classes = target_names.len();
    let confusion = confusion_matrix(&truth, &predicted, classes).unwrap();
    assert_eq!(
        serde_json::to_value(&confusion).unwrap(),
        fixture["confusion_matrix"]
    );

    let cases = fixture["reports"].as_array().unwrap();
    assert!(cases.len() >= 6, "only {} cases", cases.len());
    for case in cases {
        let name = case["case"].as_str().unwrap();
        let digits = case["digits"].as_u64().unwrap_or(2) as usize;
        let names: &[String] = if name.contains("no names") {
            &[]
        } else {
            &target_names
        };
        let confusion = if name.contains("never predicted") {
            confusion_matrix(&truth, &replace(&predicted, 3, 4), classes).unwrap()
        } else if name.contains("absent from both") {
            confusion_matrix(&replace(&truth, 5, 0), &replace(&predicted, 5, 0), classes).unwrap()
        } else {
            confusion.clone()
        };
        let report = match case["labels"].as_array() {
            Some(labels) => {
                let labels: Vec<usize> = labels
                    .iter()
                    .map(|label| label.as_u64().unwrap() as usize)
                    .collect();
                ClassificationReport::of_labels(names, &confusion, &labels)
            }
            None => ClassificationReport::new(names, &confusion),
        };
        assert_eq!(
            report.to_text(digits),
            case["text"].as_str().unwrap(),
            "{name}"
        );

        let dict = &case["dict"];
        for class in &report.classes {
            scores_close(&class.scores, &dict[&class.name], name);
        }
        match &report.overall {
            Overall::Accuracy(accuracy) => close(*accuracy, &dict["accuracy"], name),
            Overall::MicroAvg(scores) => scores_close(scores, &dict["micro avg"], name),
        }
        scores_close(&report.macro_avg, &dict["macro avg"], name);
        scores_close(&report.weighted_avg, &dict["weighted avg"], name);
    }
}

#[test]
fn a_small_report_is_equal_to_the_byte() {
    built_in();
}

/// Printed by scikit-learn 1.9.1.
fn built_in() {
    let confusion =
        confusion_matrix(&[0, 0, 1, 1, 2, 2, 2, 2], &[0, 1, 1, 1, 2, 2, 0, 2], 3).unwrap();
    let expected = concat!(
        "              precision    recall  f1-score   support\n",
        "\n",
        "           0       0.50      0.50      0.50         2\n",
        "           1       0.67      1.00      0.80         2\n",
        "           2       1.00      0.75      0.86         4\n",
        "\n",
        "    accuracy                           0.75         8\n",
        "   macro avg       0.72      0.75      0.72         8\n",
        "weighted avg       0.79      0.75      0.75         8\n",
    );
    assert_eq!(classification_report(&[], &confusion, 2), expected);
}

/// As scikit-learn 1.9.1 prints it.
#[test]
fn where_nothing_is_right_support_is_printed_as_a_float() {
    let confusion = confusion_matrix(&[0, 1, 1], &[1, 0, 0], 2).unwrap();
    let text = classification_report(&[], &confusion, 2);
    assert!(
        text.contains("           1       0.00      0.00      0.00       2.0\n"),
        "{text}"
    );
    assert!(
        text.contains("    accuracy                           0.00       3.0\n"),
        "{text}"
    );
}

#[test]
fn nothing_evaluated_scores_zero_and_does_not_panic() {
    let names = vec!["a".to_string(), "b".to_string()];
    for confusion in [vec![], vec![vec![0, 0], vec![0, 0]], vec![vec![1], vec![]]] {
        let text = classification_report(&names, &confusion, 2);
        assert!(text.contains("weighted avg"), "{text}");
        assert!(!text.contains("NaN"), "{text}");
    }
}
