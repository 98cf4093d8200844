//! From a job file to a job: the layers defaults, file, environment, `--set` and flags, and every
//! mistake in them as one sentence that names the key and where it was written.

mod keys;
mod layer;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

use config::{Config, ConfigError, FileFormat, Value, ValueKind};
use perennial_plan::Spec;
use perennial_plan::spec::SpecError;

pub use keys::in_plain_words;
use layer::Layer;

/// What is wrong with the settings of a job.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    #[error("cannot read job file `{path}`: {source}")]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("job file `{path}` is not TOML: {place}{message}")]
    Syntax {
        path: PathBuf,
        /// `line N: `, or nothing.
        place: String,
        message: String,
    },
    #[error("`--set {0}` is not an assignment: write it as `--set section.key=value`")]
    NotAnAssignment(String),
    #[error("unknown key `{key}` in {origin}{hint}")]
    UnknownKey {
        key: String,
        origin: String,
        hint: String,
    },
    #[error("`{key}` in {origin} has a wrong value: {message}")]
    WrongType {
        key: String,
        origin: String,
        message: String,
    },
    #[error("variable `{name}` is `{value}`, but must be {expected}")]
    Variable {
        name: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error(transparent)]
    Impossible(#[from] SpecError),
    #[error("settings cannot be put together: {0}")]
    Layering(#[from] ConfigError),
}

/// Where the settings of a job come from.
#[derive(Debug, Default)]
pub struct Sources<'a> {
    /// The job file; none: defaults.
    pub file: Option<&'a Path>,
    /// What stands in the file, where it lies elsewhere.
    pub text: Option<&'a str>,
    /// Variables of the environment, in which those of the job are looked for.
    pub environment: Vec<(String, String)>,
    /// What `--set` was given: `section.key=value`.
    pub assignments: &'a [String],
    /// What `--data` was given.
    pub data: Option<&'a Path>,
    /// What `--on-bad-image` was given.
    pub on_bad_image: Option<&'a str>,
}

// === impl Sources ===

impl<'a> Sources<'a> {
    /// The job file and this process's environment.
    pub fn of_file(file: &'a Path) -> Self {
        Self {
            file: Some(file),
            environment: std::env::vars_os()
                .filter_map(|(name, value)| {
                    Some((name.into_string().ok()?, value.into_string().ok()?))
                })
                .collect(),
            ..Self::default()
        }
    }

    /// The job, checked, with an absolute data folder.
    pub fn resolve(&self) -> Result<Spec, SettingsError> {
        let mut spec = self.load()?;
        spec.data.dir = absolute(&spec.data.dir);
        spec.data.cache_dir = absolute(&spec.data.cache_dir);
        spec.validate()?;
        Ok(spec)
    }

    /// The job as it is written: its values have the right types but may be impossible.
    pub fn load(&self) -> Result<Spec, SettingsError> {
        let mut builder = Config::builder();
        if let Some(path) = self.file {
            let text = match self.text {
                Some(text) => text.to_string(),
                None => std::fs::read_to_string(path).map_err(|source| SettingsError::Read {
                    path: path.to_path_buf(),
                    source,
                })?,
            };
            let file = config::File::from_str(&text, FileFormat::Toml);
            // Alone first: its mistakes are told with their line.
            Config::builder()
                .add_source(file.clone())
                .build()
                .map_err(|error| syntax_error(path, &text, error))?;
            builder = builder.add_source(file);
        }
        let mut layers = Layer::environment(&self.environment);
        layers.extend(Layer::assignments(self.assignments)?);
        if let Some(data) = self.data {
            layers.push(Layer::flag("--data", "data.dir", &data.to_string_lossy()));
        }
        if let Some(text) = self.on_bad_image {
            layers.push(Layer::flag("--on-bad-image", "data.on_bad_image", text));
        }
        for layer in layers {
            builder = builder.add_source(layer);
        }
        let merged = builder.build()?.cache;
        self.refuse_unknown(&merged)?;
        let table = layer::to_toml(&merged);
        serde_path_to_error::deserialize(table).map_err(|error| {
            let key = error.path().to_string();
            SettingsError::WrongType {
                origin: self.origin(&merged, &key),
                message: keys::in_plain_words(error.inner().message()),
                key,
            }
        })
    }

    fn refuse_unknown(&self, merged: &Value) -> Result<(), SettingsError> {
        match keys::first_unknown(merged) {
            None => Ok(()),
            Some(key) => Err(SettingsError::UnknownKey {
                origin: self.origin(merged, &key),
                hint: keys::hint(&key),
                key,
            }),
        }
    }

    /// Where the value of `key` (`section.key`) was written, for the middle of a sentence.
    fn origin(&self, merged: &Value, key: &str) -> String {
        let mut value = merged;
        for part in key.split(['.', '[']) {
            match &value.kind {
                ValueKind::Table(table) if table.contains_key(part) => value = &table[part],
                _ => break,
            }
        }
        // A section has no origin of its own: that of what is in it.
        while let (None, ValueKind::Table(table)) = (value.origin(), &value.kind) {
            match table.values().next() {
                Some(inner) => value = inner,
                None => break,
            }
        }
        match (value.origin(), self.file) {
            (Some(origin), _) => origin.to_string(),
            (None, Some(path)) => format!("`{}`", path.display()),
            (None, None) => "the job".to_string(),
        }
    }
}

/// Those of `variables` that set a key of the job.
pub fn variables(variables: &[(String, String)]) -> Vec<(String, String)> {
    let is_setting = |(name, _): &&(String, String)| layer::key_of_variable(name).is_some();
    variables.iter().filter(is_setting).cloned().collect()
}

/// The name of the job that `job` means: the name itself, or the path of its job file.
pub fn job_name(job: &str) -> Result<String, SettingsError> {
    let path = Path::new(job);
    if path
        .extension()
        .is_some_and(|extension| extension == "toml")
        || path.is_file()
    {
        Ok(Sources::of_file(path).load()?.name)
    } else {
        Ok(job.to_string())
    }
}

/// `dir` as an absolute path; a URL and nothing at all stay as they are.
pub fn absolute(dir: &str) -> String {
    if dir.is_empty() || dir.contains("://") {
        return dir.to_string();
    }
    match std::path::absolute(dir) {
        Ok(path) => path.to_string_lossy().into_owned(),
        Err(_) => dir.to_string(),
    }
}

fn syntax_error(path: &Path, text: &str, error: ConfigError) -> SettingsError {
    let ConfigError::FileParse { cause, .. } = error else {
        return error.into();
    };
    let (place, message) = match cause.downcast_ref::<toml::de::Error>() {
        Some(error) => {
            let line = error
                .span()
                .map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
            let place = line.map_or(String::new(), |line| format!("line {line}: "));
            (place, error.message().to_string())
        }
        None => (String::new(), cause.to_string()),
    };
    SettingsError::Syntax {
        path: path.to_path_buf(),
        place,
        message: message.replace('\n', ", "),
    }
}
