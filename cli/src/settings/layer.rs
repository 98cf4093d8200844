//! One source of settings above the job file: variables of the environment, `--set`, flags.

use config::{Map, Source, Value, ValueKind};

use super::{SettingsError, keys};

const PREFIX: &str = "PERENNIAL_";

/// Values by key, with where they were written.
#[derive(Debug, Clone)]
pub struct Layer {
    values: Map<String, Value>,
}

// === impl Layer ===

impl Layer {
    fn one(origin: &str, key: &str, value: ValueKind) -> Self {
        let value = Value::new(Some(&origin.to_string()), value);
        Self {
            values: Map::from_iter([(key.to_string(), value)]),
        }
    }

    /// A flag with a text of its own.
    pub fn flag(flag: &str, key: &str, text: &str) -> Self {
        Self::one(
            &format!("`{flag}`"),
            key,
            ValueKind::String(text.to_string()),
        )
    }

    /// `PERENNIAL_NAME`, `PERENNIAL_SEED` and every `PERENNIAL_SECTION__KEY`, in the order of their names.
    pub fn environment(variables: &[(String, String)]) -> Vec<Self> {
        let mut layers: Vec<(&String, Self)> = variables
            .iter()
            .filter_map(|(variable, text)| {
                let key = key_of_variable(variable)?;
                let origin = format!("environment variable `{variable}`");
                Some((variable, Self::one(&origin, &key, parse(&key, text))))
            })
            .collect();
        layers.sort_by_key(|(variable, _)| *variable);
        layers.into_iter().map(|(_, layer)| layer).collect()
    }

    /// What `--set` was given, in its order.
    pub fn assignments(assignments: &[String]) -> Result<Vec<Self>, SettingsError> {
        assignments
            .iter()
            .map(|assignment| match assignment.split_once('=') {
                Some((key, text)) if !key.trim().is_empty() => {
                    let key = key.trim();
                    Ok(Self::one("`--set`", key, parse(key, text.trim())))
                }
                _ => Err(SettingsError::NotAnAssignment(assignment.clone())),
            })
            .collect()
    }
}

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, config::ConfigError> {
        Ok(self.values.clone())
    }
}

/// The key that a variable of the environment sets, if it is one of the job's.
pub fn key_of_variable(variable: &str) -> Option<String> {
    let key = variable.strip_prefix(PREFIX)?.to_lowercase();
    let is_setting = key.contains("__") || key == "name" || key == "seed";
    is_setting.then(|| key.replace("__", "."))
}

/// `text` as a TOML value, or as it is: when it is none, or when the key takes a text and it is not
/// quoted.
fn parse(key: &str, text: &str) -> ValueKind {
    let parsed = toml::from_str::<toml::Table>(&format!("value = {text}"))
        .ok()
        .filter(|table| table.len() == 1)
        .and_then(|mut table| table.remove("value"));
    match parsed {
        Some(value) if value.is_str() || !keys::takes_text(key) => from_toml(value),
        _ => ValueKind::String(text.to_string()),
    }
}

fn from_toml(value: toml::Value) -> ValueKind {
    match value {
        toml::Value::String(text) => ValueKind::String(text),
        toml::Value::Integer(number) => ValueKind::I64(number),
        toml::Value::Float(number) => ValueKind::Float(number),
        toml::Value::Boolean(truth) => ValueKind::Boolean(truth),
        toml::Value::Datetime(time) => ValueKind::String(time.to_string()),
        toml::Value::Array(values) => ValueKind::Array(
            values
                .into_iter()
                .map(|value| Value::new(None, from_toml(value)))
                .collect(),
        ),
        toml::Value::Table(table) => ValueKind::Table(
            table
                .into_iter()
                .map(|(key, value)| (key, Value::new(None, from_toml(value))))
                .collect(),
        ),
    }
}

/// The merged value for a deserializer that converts nothing on its own: 1.5 is no whole number and
/// "yes" no truth value.
pub fn to_toml(value: &Value) -> toml::Value {
    match &value.kind {
        ValueKind::Nil => toml::Value::String(String::new()),
        ValueKind::Boolean(truth) => toml::Value::Boolean(*truth),
        ValueKind::I64(number) => toml::Value::Integer(*number),
        ValueKind::I128(number) => whole(i64::try_from(*number).ok(), number),
        ValueKind::U64(number) => whole(i64::try_from(*number).ok(), number),
        ValueKind::U128(number) => whole(i64::try_from(*number).ok(), number),
        ValueKind::Float(number) => toml::Value::Float(*number),
        ValueKind::String(text) => toml::Value::String(text.clone()),
        ValueKind::Table(table) => toml::Value::Table(
            table
                .iter()
                .map(|(key, value)| (key.clone(), to_toml(value)))
                .collect(),
        ),
        ValueKind::Array(values) => toml::Value::Array(values.iter().map(to_toml).collect()),
    }
}

fn whole(number: Option<i64>, text: &impl ToString) -> toml::Value {
    number.map_or_else(
        || toml::Value::String(text.to_string()),
        toml::Value::Integer,
    )
}
