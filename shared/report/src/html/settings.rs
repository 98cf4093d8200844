//! What was trained on what and how, and what identifies the result.

use maud::{Markup, html};
use serde_json::{Map, Value};

use crate::Report;
use crate::format::{counted, setting, thousands};

/// The order of the job file's sections; others follow by name.
const SECTIONS: [&str; 10] = [
    "data",
    "model",
    "train",
    "optimizer",
    "schedule",
    "augment",
    "mix",
    "ema",
    "elastic",
    "checkpoint",
];

pub fn section(report: &Report) -> Markup {
    let empty = Map::new();
    let spec = report.spec.as_object().unwrap_or(&empty);
    let top: Vec<(&String, &Value)> = spec
        .iter()
        .filter(|(_, value)| !value.is_object())
        .collect();
    let known = |name: &str| {
        SECTIONS
            .iter()
            .position(|section| *section == name)
            .unwrap_or(SECTIONS.len())
    };
    let mut sections: Vec<(&String, &Map<String, Value>)> = spec
        .iter()
        .filter_map(|(name, value)| Some((name, value.as_object()?)))
        .collect();
    sections.sort_by_key(|(name, _)| known(name));
    html! {
        section {
            h2 { "How it was trained" }
            (facts(report))
            @if !spec.is_empty() {
                h3 { "Job file, with every default" }
                div.settings {
                    @if !top.is_empty() { (group("job", &top)) }
                    @for (name, keys) in sections { (group(name, &keys.iter().collect::<Vec<_>>())) }
                }
            }
        }
    }
}

fn facts(report: &Report) -> Markup {
    let (data, model) = (&report.data, &report.model);
    html! {
        dl.facts {
            div { dt { "Network" } dd { (model.name) ", " (thousands(model.parameters)) " parameters" } }
            div { dt { "Start" } dd { @match &model.weights { Some(file) => { "weights of " (file) }, None => "random weights, drawn from the seed" } } }
            div { dt { "Pictures" } dd { (data.dir) } }
            div { dt { "Split" } dd { (thousands(data.train_samples)) " for training, " (thousands(data.val_samples)) " for validation" } }
            @if data.skipped > 0 {
                div { dt { "Left out" } dd { (counted(data.skipped, "file")) " that could not be read" } }
            }
            div { dt { "Progress" } dd { (report.progress()) } }
            div { dt { "Cluster" } dd { (counted(report.workers.into(), "worker")) " at the end, " (counted(report.generations, "membership")) " in all" } }
            div { dt { "Numerics" } dd { (report.numerics) } }
            @if !report.is_exact() {
                div { dt { "Reduction" } dd { "fast: the weights depend on the workers" } }
            }
        }
    }
}

fn group(name: &str, keys: &[(&String, &Value)]) -> Markup {
    html! {
        table {
            caption { (name) }
            tbody { @for (key, value) in keys { tr { th scope="row" { (key) } td { (setting(value)) } } } }
        }
    }
}

/// Hashes and the command.
pub fn provenance(report: &Report) -> Markup {
    let hashes = [
        ("Weights, SHA-256", report.weights_sha256.as_deref()),
        ("EMA weights, SHA-256", report.ema_sha256.as_deref()),
        ("Ledger, Merkle root", report.ledger_root.as_deref()),
        (
            "Pictures, fingerprint",
            Some(report.data.fingerprint.as_str()).filter(|hash| !hash.is_empty()),
        ),
    ];
    html! {
        section {
            h2 { "Train it again" }
            p.note {
                @if report.is_exact() {
                    "The weights depend on the job file, the pictures and the kind of processor, and not on how many workers took part "
                    "or what happened to them. Whoever trains this job again on such a processor gets weights with these hashes."
                } @else {
                    "The job asked for fast sums, so the weights also depend on how many workers took part and what happened to them. "
                    "Whoever trains this job again gets weights that are near these, with other hashes."
                }
            }
            @if let Some(command) = &report.command { pre tabindex="0" { code { (command) } } }
            dl.facts.hashes {
                @for (name, hash) in hashes {
                    @if let Some(hash) = hash { div { dt { (name) } dd { code { (hash) } } } }
                }
            }
        }
    }
}
