//! Reports side by side.

mod common;

use common::{record, report};
use perennial_report::{Comparison, EpochRecord, Report};

fn pair() -> [Report; 2] {
    let mut other = report();
    other.job = "field".into();
    other.ema = None;
    other.ema_sha256 = None;
    other.epochs = vec![
        EpochRecord {
            val_top1: 0.9,
            ..record(1)
        },
        EpochRecord {
            val_top1: f64::NAN,
            ..record(2)
        },
        EpochRecord {
            val_top1: 0.9,
            ..record(3)
        },
    ];
    other.spec = serde_json::json!({ "name": "field", "train": { "epochs": 3, "rate": 0.002 }, "mix": { "prob": 0.2 } });
    [report(), other]
}

#[test]
fn each_job_is_a_column_and_the_keys_that_differ_are_named() {
    let comparison = Comparison::of(&pair());
    let table = comparison.table();
    assert_eq!(table[0], ["", "meadow", "field"]);
    let row = |name: &str| {
        let row = table.iter().find(|row| row[0] == name);
        row.map(|row| [row[1].as_str(), row[2].as_str()])
    };
    assert_eq!(row("parameters"), Some(["2,958,012", "2,958,012"]));
    assert_eq!(row("EMA top-1"), Some(["82.5%", "–"]));
    assert_eq!(row("best top-1").unwrap()[1], "90.0%");
    assert_eq!(row("best epoch").unwrap()[1], "1", "the first of equals");
    assert_eq!(row("mix.prob"), Some(["0.1", "0.2"]));
    assert_eq!(row("train.rate"), Some(["–", "0.002"]));
    assert_eq!(row("train.epochs"), None, "it is the same in both");
    assert_eq!(row("name"), None);
    assert!(table.iter().all(|row| row.len() == 3), "{table:?}");
}

#[test]
fn for_programs_numbers_are_numbers() {
    let json = serde_json::to_value(Comparison::of(&pair())).unwrap();
    assert_eq!(json["jobs"], serde_json::json!(["meadow", "field"]));
    let rows = json["rows"].as_array().unwrap();
    let values = |name: &str| &rows.iter().find(|row| row["name"] == name).unwrap()["values"];
    assert_eq!(*values("top-1"), serde_json::json!([0.8, 0.8]));
    assert_eq!(*values("EMA top-1"), serde_json::json!([0.825, null]));
    assert_eq!(*values("mix.prob"), serde_json::json!([0.1, 0.2]));
}
