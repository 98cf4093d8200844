//! Every metric of `/metrics`, out of the registries that answer there.

use std::collections::BTreeSet;

use super::{cell, made_from};

const INTRODUCTION: &str = "
# Metrics

What stands at `http://COORDINATOR/metrics`, on the port at which workers connect, in the OpenMetrics text format. Counters
count from the coordinator's start; what has to outlive it is a gauge of what the log says. A coordinator of a queue shows the
metrics of all jobs that run, each with its label `job`.

| metric | type | labels | |
| --- | --- | --- | --- |
";

pub fn page() -> String {
    let mut page = made_from("`coordinator/src/server/metrics.rs` and `queue/views.rs`");
    page += INTRODUCTION;
    for text in perennial_coordinator::metrics_in_words() {
        for line in text.lines() {
            if let Some((name, help)) = line
                .strip_prefix("# HELP ")
                .and_then(|it| it.split_once(' '))
            {
                page += &row(&text, name, help);
            }
        }
    }
    page
}

fn row(text: &str, name: &str, help: &str) -> String {
    let of_type = format!("# TYPE {name} ");
    let kind = text.lines().find_map(|line| line.strip_prefix(&of_type));
    let kind = kind.unwrap_or("unknown");
    let name = match kind {
        "counter" => format!("{name}_total"),
        _ => name.to_string(),
    };
    let samples = text
        .lines()
        .filter_map(|line| line.strip_prefix(&format!("{name}{{")));
    let labels: BTreeSet<String> = samples
        .filter_map(|sample| sample.split_once('}'))
        .flat_map(|(labels, _)| labels.split(','))
        .filter_map(|label| label.split_once('='))
        .map(|(label, _)| format!("`{label}`"))
        .collect();
    let labels: Vec<String> = labels.into_iter().collect();
    format!(
        "| `{name}` | {kind} | {} | {} |\n",
        labels.join(", "),
        cell(help)
    )
}
