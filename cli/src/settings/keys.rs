//! Which keys a job has, and what somebody who wrote another one may have meant.

use std::collections::BTreeSet;

use config::{Value, ValueKind};
use perennial_plan::Spec;
use serde_json::Value as Json;

/// How alike two names must be (Jaro-Winkler, 0..1) for one to be offered in place of the other.
const ALIKE: f64 = 0.85;
const MOST_HINTS: usize = 3;

fn defaults() -> Json {
    serde_json::to_value(Spec::with_every_key()).expect("a spec is plain data")
}

/// Whether the value of `key` (`section.key`) is a text.
pub fn takes_text(key: &str) -> bool {
    let defaults = defaults();
    let pointer = format!("/{}", key.replace('.', "/"));
    defaults.pointer(&pointer).is_some_and(Json::is_string)
}

/// The first key of `merged`, in alphabetical order, that no job has.
pub fn first_unknown(merged: &Value) -> Option<String> {
    fn walk(path: &str, value: &Value, known: &Json) -> Option<String> {
        let (ValueKind::Table(table), Json::Object(known)) = (&value.kind, known) else {
            return None;
        };
        let mut names: Vec<&String> = table.keys().collect();
        names.sort();
        names.into_iter().find_map(|name| {
            let path = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            match known.get(name) {
                None => Some(path),
                Some(known) => walk(&path, &table[name], known),
            }
        })
    }
    walk("", merged, &defaults())
}

fn is_in(key: &str, section: &str) -> bool {
    key.strip_prefix(section)
        .is_some_and(|rest| rest.starts_with('.'))
}

/// The keys of the section in which `unknown` would be, or where there is no such section, what is at the top.
fn there_are(unknown: &str) -> String {
    let section = unknown.rsplit_once('.').map(|(section, _)| section);
    let inside = |section: &str| -> BTreeSet<String> {
        let all = known().into_iter();
        all.filter_map(|key| Some(key.strip_prefix(section)?.strip_prefix('.')?.to_string()))
            .collect()
    };
    let quoted = |names: BTreeSet<String>| {
        let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
        names.join(", ")
    };
    match section.map(|section| (section, inside(section))) {
        Some((section, names)) if !names.is_empty() => {
            format!(": `{section}` has {}", quoted(names))
        }
        _ => {
            let first = |key: String| key.split('.').next().unwrap_or_default().to_string();
            format!(
                ": there are {}",
                quoted(known().into_iter().map(first).collect())
            )
        }
    }
}

/// `: did you mean ...?` with the keys that are like `unknown`, or those that there are.
pub fn hint(unknown: &str) -> String {
    let last = |key: &str| key.rsplit('.').next().unwrap_or(key).to_string();
    let mut alike: Vec<(f64, String)> = known()
        .into_iter()
        .map(|key| {
            let whole = strsim::jaro_winkler(unknown, &key);
            let name = strsim::jaro_winkler(&last(unknown), &last(&key));
            (whole.max(name), key)
        })
        .filter(|(score, key)| *score >= ALIKE && !is_in(unknown, key))
        .collect();
    alike.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    let best = alike.first().map_or(0.0, |(score, _)| *score);
    let names: Vec<String> = alike
        .into_iter()
        .filter(|(score, _)| *score >= best - 0.05)
        .take(MOST_HINTS)
        .map(|(_, key)| format!("`{key}`"))
        .collect();
    if names.is_empty() {
        there_are(unknown)
    } else {
        format!(": did you mean {}?", names.join(" or "))
    }
}

/// All keys of a job as `section.key`, and its sections.
fn known() -> Vec<String> {
    let mut keys = Vec::new();
    let Json::Object(top) = defaults() else {
        return keys;
    };
    for (name, value) in top {
        if let Json::Object(section) = value {
            keys.extend(section.keys().map(|key| format!("{name}.{key}")));
        }
        keys.push(name);
    }
    keys
}

/// A deserializer's message without the names of Rust's types.
pub fn in_plain_words(message: &str) -> String {
    let (found, expected) = match message.split_once(", expected ") {
        Some((found, expected)) => (found, expected.trim()),
        None => return message.trim().replace('\n', ", "),
    };
    let expected = match expected {
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number, not negative",
        "f32" | "f64" => "a number",
        "a boolean" => "true or false",
        "a string" => "a text in quotes",
        other if other.starts_with("struct ") => "a section of keys",
        other => other,
    };
    let found = match found.split_once(": ") {
        Some(("invalid type" | "invalid value", found)) => format!("found {found}"),
        _ => found.to_string(),
    };
    format!("{found}, expected {expected}").replace('\n', ", ")
}
