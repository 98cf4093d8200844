//! Several reports side by side.

use serde::Serialize;
use serde_json::Value;

use crate::format::{UNKNOWN, clean, duration, loss, percent, setting, thousands};
use crate::{EpochRecord, Evaluation, Report};

/// What several reports say of the same things, and how their job files differ.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    /// The reports' jobs, in the order of every row's values.
    pub jobs: Vec<String>,
    pub rows: Vec<Row>,
}

/// One thing that the reports tell.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub name: String,
    /// One for each report; none: it does not tell.
    pub values: Vec<Option<Fact>>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Fact {
    Count(u64),
    /// Of one (0..1).
    Share(f64),
    Loss(f64),
    Seconds(f64),
    PerSecond(f64),
    Text(String),
    /// A key's value in a job file.
    Setting(Value),
}

/// Digits of a hash that tell it from others at a glance.
const SHORT: usize = 12;

// === impl Comparison ===

impl Comparison {
    pub fn of(reports: &[Report]) -> Self {
        let mut rows = Vec::new();
        let mut row = |name: &str, fact: &dyn Fn(&Report) -> Option<Fact>| {
            rows.push(Row {
                name: name.to_string(),
                values: reports.iter().map(fact).collect(),
            });
        };
        row("model", &|it| Some(Fact::Text(it.model.name.clone())));
        row("parameters", &|it| Some(Fact::Count(it.model.parameters)));
        row("training pictures", &|it| {
            Some(Fact::Count(it.data.train_samples))
        });
        row("validation pictures", &|it| {
            Some(Fact::Count(it.data.val_samples))
        });
        row("epochs", &|it| Some(Fact::Count(it.epochs_done.into())));
        row("steps", &|it| Some(Fact::Count(it.global_step)));
        row("time", &|it| Some(Fact::Seconds(it.seconds())));
        row("pictures a second", &|it| {
            let count = it.epochs.len() as f64;
            let sum: f64 = it.epochs.iter().map(|epoch| epoch.images_per_second).sum();
            (count > 0.0).then(|| Fact::PerSecond(sum / count))
        });
        row("top-1", &|it| Some(Fact::Share(it.raw.top1)));
        row("top-5", &|it| Some(Fact::Share(it.raw.top5)));
        row("loss", &|it| Some(Fact::Loss(it.raw.loss)));
        row("macro F1", &|it| Some(macro_f1(it, &it.raw)));
        row("EMA top-1", &|it| Some(Fact::Share(it.ema.as_ref()?.top1)));
        row("EMA top-5", &|it| Some(Fact::Share(it.ema.as_ref()?.top5)));
        row("EMA loss", &|it| Some(Fact::Loss(it.ema.as_ref()?.loss)));
        row("EMA macro F1", &|it| Some(macro_f1(it, it.ema.as_ref()?)));
        row("best top-1", &|it| Some(Fact::Share(best(it)?.val_top1)));
        row("best epoch", &|it| {
            Some(Fact::Count(best(it)?.epoch.into()))
        });
        row("data", &|it| short(Some(&it.data.fingerprint)));
        row("weights", &|it| short(it.weights_sha256.as_ref()));
        row("EMA weights", &|it| short(it.ema_sha256.as_ref()));
        rows.retain(|row| row.values.iter().any(Option::is_some));
        rows.extend(differences(reports));
        Self {
            jobs: reports.iter().map(|report| report.job.clone()).collect(),
            rows,
        }
    }

    /// A table for a terminal: a line for each row, a column for each report.
    pub fn table(&self) -> Vec<Vec<String>> {
        let heads = std::iter::once(String::new()).chain(self.jobs.iter().map(|job| clean(job)));
        let mut table = vec![heads.collect()];
        table.extend(self.rows.iter().map(|row| {
            let values = row.values.iter();
            let values = values.map(|fact| fact.as_ref().map_or(UNKNOWN.into(), Fact::to_text));
            std::iter::once(clean(&row.name)).chain(values).collect()
        }));
        table
    }
}

// === impl Fact ===

impl Fact {
    fn to_text(&self) -> String {
        match self {
            Self::Count(count) => thousands(*count),
            Self::Share(share) => percent(*share),
            Self::Loss(value) => loss(*value),
            Self::Seconds(seconds) => duration(*seconds),
            Self::PerSecond(rate) => format!("{rate:.1}"),
            Self::Text(text) => clean(text),
            Self::Setting(value) => clean(&setting(value)),
        }
    }
}

fn macro_f1(report: &Report, evaluation: &Evaluation) -> Fact {
    Fact::Share(report.classification(evaluation).macro_avg.f1_score)
}

fn best(report: &Report) -> Option<&EpochRecord> {
    let epochs = report.epochs.iter().filter(|it| it.val_top1.is_finite());
    // The first of equals.
    epochs.reduce(|best, it| {
        if it.val_top1 > best.val_top1 {
            it
        } else {
            best
        }
    })
}

fn short(hash: Option<&String>) -> Option<Fact> {
    hash.map(|hash| Fact::Text(hash.chars().take(SHORT).collect()))
}

/// The keys in which the job files differ, by their paths.
fn differences(reports: &[Report]) -> Vec<Row> {
    let mut paths = Vec::new();
    for report in reports {
        collect_paths(&report.spec, "", &mut paths);
    }
    let at = |report: &Report, path: &str| {
        let mut keys = path.split('.');
        let value = keys.try_fold(&report.spec, |value, key| value.get(key));
        value.filter(|value| !value.is_null()).cloned()
    };
    paths
        .iter()
        .filter(|path| path.as_str() != "name")
        .map(|path| Row {
            name: path.clone(),
            values: reports
                .iter()
                .map(|report| at(report, path).map(Fact::Setting))
                .collect(),
        })
        .filter(|row| row.values.iter().any(|value| *value != row.values[0]))
        .collect()
}

/// The paths of all values that are no tables, each once, in the order of their first mention.
fn collect_paths(value: &Value, path: &str, paths: &mut Vec<String>) {
    let Value::Object(table) = value else {
        if !paths.iter().any(|known| known == path) {
            paths.push(path.to_string());
        }
        return;
    };
    for (key, value) in table {
        let inner = match path {
            "" => key.clone(),
            _ => format!("{path}.{key}"),
        };
        collect_paths(value, &inner, paths);
    }
}
