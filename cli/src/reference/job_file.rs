//! Every key of a job file. What a key is for stands beside it in `perennial_plan::spec`; its default, its type, the
//! values it takes, what is refused and whether the weights depend on it are found by trying.

use perennial_plan::Spec;
use perennial_plan::spec::Precision;
use serde_json::{Value, json};

use super::made_from;
use crate::settings::in_plain_words;

/// What is said above the keys.
const INTRODUCTION: &str = "
# The job file

A job file is TOML. Values come from the defaults below, then the file, then variables such as
`PERENNIAL_TRAIN__EPOCHS=5`, then `--set train.epochs=5`, then flags of their own such as `--data`. An unknown key, a value
of a wrong type and an impossible one are refused by name, before anything is written. `perennial submit --dry-run` prints a
job with all its values.

*Part of the job* is a key that the weights may depend on: a job is resumed with the value that it was begun with, or refused.
";

pub fn page() -> String {
    let mut page = made_from("`shared/plan/src/spec.rs`");
    page += INTRODUCTION;
    for (section, words) in Spec::SECTIONS {
        let is_top = section.is_empty();
        if !is_top {
            page += &format!("\n## {section}\n\n{}\n", sentence(words.about));
        }
        for (key, lines) in words.keys {
            let is_section = Spec::SECTIONS.iter().any(|(name, _)| name == key);
            // No job file has this one: it is how `evaluate` says what it measures.
            let is_made = *key == "evaluate";
            if !(is_top && (is_section || is_made)) {
                page += &Key::new(section, key).entry(lines);
            }
        }
    }
    page
}

fn sentence(lines: &[&str]) -> String {
    let lines: Vec<&str> = lines.iter().map(|line| line.trim()).collect();
    lines.join(" ")
}

/// The type of an array in words.
fn in_numbers(expected: &str) -> String {
    match expected.strip_prefix("an array of length ") {
        Some(length) => format!("an array of {length} numbers"),
        None => expected.to_string(),
    }
}

/// A key by its place in a job as JSON.
struct Key {
    /// `section.key`.
    name: String,
    pointer: Vec<String>,
}

// === impl Key ===

impl Key {
    fn new(section: &str, key: &str) -> Self {
        let mut pointer = vec![section.to_string(), key.to_string()];
        pointer.retain(|part| !part.is_empty());
        Self {
            name: pointer.join("."),
            pointer,
        }
    }

    fn entry(&self, lines: &[&str]) -> String {
        let default = match self.default() {
            Value::Null => "no default".to_string(),
            value => format!("default `{value}`"),
        };
        let mut facts = vec![self.kind(), default];
        facts.extend(
            self.expected()
                .map(|expected| format!("must be {expected}")),
        );
        let part = match self.decides() {
            true => " Part of the job.",
            false => "",
        };
        let name = &self.name;
        format!(
            "\n### `{name}`\n\n{}\n\n*{}.*{part}\n",
            sentence(lines),
            facts.join("; ")
        )
    }

    fn default(&self) -> Value {
        self.of(&json!(Spec::default()))
    }

    fn of(&self, job: &Value) -> Value {
        let pointer = format!("/{}", self.pointer.join("/"));
        job.pointer(&pointer).cloned().unwrap_or_default()
    }

    /// The job with this value and otherwise defaults, or why it has a wrong type.
    fn set(&self, value: Value) -> Result<Spec, String> {
        let nested = self.pointer.iter().rev();
        let job = nested.fold(value, |value, part| json!({ part: value }));
        let mut job: Spec = serde_json::from_value(job).map_err(|error| error.to_string())?;
        if self.name != "data.dir" {
            job.data.dir = "pictures".into();
        }
        Ok(job)
    }

    /// Its type, or the words that it takes.
    fn kind(&self) -> String {
        // No key takes this, whatever it is.
        let nonsense = [json!("no such word"), json!({})].map(|value| self.set(value).err());
        for refusal in nonsense.into_iter().flatten() {
            let words = in_plain_words(&refusal);
            if let Some((_, expected)) = words.split_once(", expected ")
                && !expected.contains("map with a single key")
            {
                let expected = expected.trim_start_matches("one of ");
                return match refusal.starts_with("unknown variant") {
                    true => format!("one of {}", expected.replace(" or ", ", ")),
                    false => in_numbers(expected),
                };
            }
        }
        "a text in quotes".to_string()
    }

    /// Values of many kinds, of which some have this key's type and some of those are impossible.
    fn candidates(&self) -> impl Iterator<Item = Spec> {
        let numbers = [-1.0, 0.0, 0.25, 0.5, 1.0, 2.0, 1e9].map(|number| json!(number));
        let whole = [-1, 0, 1, 2, 1_000_000_000].map(|number| json!(number));
        let pairs = [-1.0, 0.25, 2.0].map(|number| json!([number, number]));
        let triples = [-1.0, 0.0, 0.25, 1e39].map(|number| json!([number, number, number]));
        let words = [
            "", "other", "casvit_t", "skip", "bicubic", "fast", "bf16", "sgd", "constant",
        ];
        let words = words.map(|word| json!(word));
        let truths = [true, false].map(|truth| json!(truth));
        let all = numbers.into_iter().chain(whole).chain(pairs).chain(triples);
        let all = all.chain(words).chain(truths);
        all.filter_map(|value| self.set(value).ok())
    }

    /// What an impossible value is answered with, if there is one.
    fn expected(&self) -> Option<&'static str> {
        let refusals = self.candidates().filter_map(|job| job.validate().err());
        let mut own = refusals.filter(|refusal| refusal.key == self.name);
        own.next().map(|refusal| refusal.expected)
    }

    /// Whether another value makes it another job.
    fn decides(&self) -> bool {
        let usual = Spec::default();
        let differs = |job: &Spec, usual: &Spec| job.identity_hash() != usual.identity_hash();
        // A loss scale is of `f16` alone.
        let half = |mut job: Spec| {
            job.train.precision = Precision::F16;
            job
        };
        self.candidates()
            .any(|job| differs(&job, &usual) || differs(&half(job), &half(usual.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_of_a_job_is_documented() {
        let documented = |section: &str, key: &str| {
            let words = Spec::SECTIONS.iter().find(|(name, _)| *name == section);
            let keys = words.map_or(&[][..], |(_, words)| words.keys);
            keys.iter()
                .any(|(name, lines)| *name == key && !lines.is_empty())
        };
        let Value::Object(job) = json!(Spec::default()) else {
            panic!("a job is a table");
        };
        for (name, value) in job {
            match value {
                Value::Object(section) => {
                    for key in section.keys() {
                        assert!(documented(&name, key), "{name}.{key} has no words");
                    }
                }
                _ => assert!(documented("", &name), "{name} has no words"),
            }
        }
    }

    #[test]
    fn types_refusals_and_weight_are_found_by_trying() {
        let key = |section, key| Key::new(section, key);
        assert_eq!(
            key("train", "batch_size").kind(),
            "a whole number, not negative"
        );
        assert_eq!(key("train", "batch_size").expected(), Some("at least 1"));
        assert_eq!(key("data", "resize").kind(), "one of `bilinear`, `bicubic`");
        assert_eq!(key("data", "mean").kind(), "an array of 3 numbers");
        assert_eq!(key("", "name").kind(), "a text in quotes");
        assert_eq!(
            key("elastic", "max_workers").kind(),
            "a whole number, not negative"
        );
        assert!(key("train", "slots").decides());
        assert!(key("augment", "crop_scale").decides());
        assert!(!key("checkpoint", "keep_last").decides());
        assert!(!key("data", "dir").decides());
    }
}
