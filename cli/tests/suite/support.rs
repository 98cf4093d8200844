//! Running the binary, and a store to run it on.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use perennial_plan::{Cursor, Spec};
use perennial_store::tensors::weights_sha256;
use perennial_store::{FORMAT_VERSION, HostTensor, Job, Manifest, NamedTensors, PartKind, Store};
use tempfile::TempDir;

/// What a run of the program left.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Ran {
    /// Its standard output, when it succeeded.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        assert_eq!(self.stderr, "", "a success says nothing on stderr");
        self.stdout
    }

    /// Its one sentence, when it ended with this status.
    #[track_caller]
    pub fn refused(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        let sentence = self.stderr.strip_prefix("error: ").expect("an error");
        let sentence = sentence.strip_suffix('\n').expect("a line");
        assert!(!sentence.contains('\n'), "one sentence: {sentence:?}");
        sentence.to_string()
    }

    #[track_caller]
    pub fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok()).expect("one JSON object")
    }
}

/// The program in `folder`, with none of its variables in the environment.
pub fn command(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_perennial"));
    command.current_dir(folder);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("PERENNIAL_") || text.starts_with("AWS_") {
            command.env_remove(&name);
        }
    }
    command
}

pub fn run(folder: &Path, arguments: &[&str]) -> Ran {
    ran(command(folder).args(arguments).output().unwrap())
}

pub fn ran(output: Output) -> Ran {
    Ran {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A folder with `pictures/` (three species, ten pictures each) and `job.toml` of job `tiny` on them.
pub fn workshop() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let synth = "data synth pictures --classes 3 --per-class 10 --size 32";
    run(folder.path(), &synth.split(' ').collect::<Vec<_>>()).ok();
    write(
        folder.path(),
        "job.toml",
        "name = \"tiny\"\n[data]\ndir = \"pictures\"\nimage_size = 32\n[train]\nepochs = 1\nbatch_size = 8\n",
    );
    folder
}

/// Trains the workshop's job to its end.
pub fn train(folder: &Path, options: &[&str]) {
    let line = ["train", "job.toml", "--workers", "1", "--threads", "1"];
    run(folder, &[&line[..], options].concat()).ok();
}

/// A [`workshop`] whose job was trained.
pub fn trained() -> TempDir {
    let folder = workshop();
    train(folder.path(), &[]);
    folder
}

pub fn write(folder: &Path, name: &str, text: &str) {
    std::fs::write(folder.join(name), text).unwrap();
}

/// The names in `folder`, ascending.
pub fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// A store with checkpoints of job `tiny`.
pub struct Kept {
    pub folder: TempDir,
    pub job: Job,
    runtime: tokio::runtime::Runtime,
}

impl Kept {
    /// `store/` in a folder of its own with job `tiny`, which has no checkpoint.
    pub fn empty() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store").to_string_lossy()).unwrap();
        let kept = Self {
            job: store.job("tiny").unwrap(),
            runtime: tokio::runtime::Runtime::new().unwrap(),
            folder,
        };
        kept.block_on(kept.job.create_spec(&spec())).unwrap();
        kept
    }

    /// The same with checkpoints of steps 10, 20 and 30, of which 20 is the best.
    pub fn with_checkpoints() -> Self {
        let kept = Self::empty();
        for (step, top1) in [(10, 0.5), (20, 0.8), (30, 0.7)] {
            kept.add_checkpoint(step, top1);
        }
        kept
    }

    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    fn add_checkpoint(&self, step: u64, top1: f64) {
        let (model, ema) = (weights(step as f32), weights(step as f32 + 0.5));
        let kinds = [
            (PartKind::Model, &model),
            (PartKind::Ema, &ema),
            (PartKind::Optimizer, &model),
        ];
        let parts = kinds.map(|(kind, tensors)| {
            self.block_on(self.job.write_tensors(step, kind, tensors))
                .unwrap()
        });
        let manifest = Manifest {
            format_version: FORMAT_VERSION,
            job: "tiny".into(),
            global_step: step,
            cursor: Cursor {
                epoch: step as u32 / 10,
                step: 0,
            },
            created: "2026-01-02T03:04:05Z".into(),
            spec: spec(),
            spec_identity: spec().identity_hash(),
            data_fingerprint: "f".into(),
            numerics: "test".into(),
            version: "0".into(),
            parts: parts.to_vec(),
            weights_sha256: weights_sha256(&model),
            ema_sha256: Some(weights_sha256(&ema)),
            history: serde_json::Value::Null,
            progress: serde_json::Value::Null,
            metric: Some(top1),
            generation: 1,
            ledger_head: None,
        };
        self.block_on(self.job.commit(&manifest)).unwrap();
    }

    /// The file of a part of the checkpoint of `step`.
    pub fn part(&self, step: u64, kind: PartKind) -> PathBuf {
        let manifest = self.block_on(self.job.load_manifest(step)).unwrap();
        let path = &manifest.part(kind).unwrap().path;
        self.folder.path().join("store/tiny").join(path)
    }

    /// The program on this store, the arguments separated by spaces.
    pub fn run(&self, arguments: &str) -> Ran {
        let mut arguments: Vec<&str> = arguments.split(' ').collect();
        arguments.extend(["--store", "store"]);
        run(self.folder.path(), &arguments)
    }
}

pub fn spec() -> Spec {
    let mut spec = Spec {
        name: "tiny".into(),
        ..Spec::default()
    };
    spec.data.dir = "/pictures".into();
    spec
}

pub fn weights(value: f32) -> NamedTensors {
    let tensor = HostTensor::f32([2, 2], vec![value; 4]);
    [("layer.weight".to_string(), tensor)].into_iter().collect()
}
