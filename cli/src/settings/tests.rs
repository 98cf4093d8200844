use std::path::Path;

use super::*;

/// The job of a file with this text, with these variables and assignments above it.
fn resolve(text: &str, variables: &[(&str, &str)], set: &[&str]) -> Result<Spec, SettingsError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("job.toml");
    std::fs::write(&file, text).unwrap();
    let set: Vec<String> = set.iter().map(ToString::to_string).collect();
    Sources {
        file: Some(&file),
        environment: variables
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_string()))
            .collect(),
        assignments: &set,
        data: None,
        ..Sources::default()
    }
    .resolve()
}

/// The sentence with the job file's path as `job.toml`.
fn refusal(text: &str, variables: &[(&str, &str)], set: &[&str]) -> String {
    let sentence = resolve(text, variables, set).unwrap_err().to_string();
    let Some(end) = sentence.find("job.toml`") else {
        return sentence;
    };
    let start = sentence[..end].rfind('`').unwrap() + 1;
    format!("{}{}", &sentence[..start], &sentence[end..])
}

const DATA: &str = "[data]\ndir = \"/pictures\"\n";

#[test]
fn each_layer_overrides_the_one_below_it() {
    let text = "seed = 1\n[data]\ndir = \"/pictures\"\nimage_size = 48\n[train]\nepochs = 2\nbatch_size = 8\nslots = 3\n";
    let spec = resolve(
        text,
        &[
            ("PERENNIAL_TRAIN__BATCH_SIZE", "16"),
            ("PERENNIAL_TRAIN__SLOTS", "5"),
            ("PERENNIAL_SEED", "2"),
            ("PERENNIAL_LOG", "debug"),
            ("UNRELATED__KEY", "1"),
        ],
        &["train.slots=7", "train.slots=6"],
    )
    .unwrap();
    assert_eq!(spec.optimizer, Spec::default().optimizer);
    assert_eq!(spec.data.image_size, 48);
    assert_eq!(spec.train.epochs, 2);
    assert_eq!(spec.train.batch_size, 16);
    assert_eq!(spec.train.slots, 6);
    assert_eq!(spec.seed, 2);
}

#[test]
fn the_data_flag_is_the_last_word_and_the_folder_becomes_absolute() {
    let set = ["data.dir=elsewhere".to_string()];
    let spec = Sources {
        assignments: &set,
        data: Some(Path::new("seedlings")),
        ..Sources::default()
    }
    .resolve()
    .unwrap();
    let expected = std::env::current_dir().unwrap().join("seedlings");
    assert_eq!(spec.data.dir, expected.to_string_lossy());
    let spec = resolve("", &[], &["data.dir=s3://bucket/shards"]).unwrap();
    assert_eq!(spec.data.dir, "s3://bucket/shards");
}

#[test]
fn an_assigned_value_is_toml_and_otherwise_a_text() {
    let spec = resolve(
        DATA,
        &[("PERENNIAL_DATA__MEAN", "[0.1, 0.2, 0.3]")],
        &[
            "name=2026",
            "model.name=casvit_s",
            "model.weights=start.pth",
            "data.stratify=true",
            "optimizer.learning_rate=1e-2",
            "optimizer.weight_decay=1",
            "augment.crop_scale=[0.5, 1.0]",
            "data.resize=\"bicubic\"",
        ],
    )
    .unwrap();
    assert_eq!(spec.name, "2026");
    assert_eq!(spec.model.name, "casvit_s");
    assert_eq!(spec.model.weights.as_deref(), Some("start.pth"));
    assert!(spec.data.stratify);
    assert_eq!(spec.data.mean, [0.1, 0.2, 0.3]);
    assert_eq!(spec.optimizer.learning_rate, 0.01);
    assert_eq!(spec.optimizer.weight_decay, 1.0);
    assert_eq!(spec.augment.crop_scale, Some([0.5, 1.0]));
}

#[test]
fn an_unknown_key_is_named_with_those_that_are_like_it() {
    assert_eq!(
        refusal("[train]\nbatchsize = 8\n", &[], &[]),
        "unknown key `train.batchsize` in `job.toml`: did you mean `train.batch_size`?"
    );
    assert_eq!(
        refusal("epochs = 8\n", &[], &[]),
        "unknown key `epochs` in `job.toml`: did you mean `train.epochs`?"
    );
    assert_eq!(
        refusal(DATA, &[("PERENNIAL_TRIAN__EPOCHS", "3")], &[]),
        "unknown key `trian` in environment variable `PERENNIAL_TRIAN__EPOCHS`: did you mean `train`?"
    );
    assert_eq!(
        refusal(DATA, &[], &["qqq.zzz=1"]),
        "unknown key `qqq` in `--set`: there are `augment`, `checkpoint`, `data`, `elastic`, `ema`, `mix`, `model`, `name`, `optimizer`, `schedule`, `seed`, `train`"
    );
    assert_eq!(
        refusal(DATA, &[], &["ema.zzz=1"]),
        "unknown key `ema.zzz` in `--set`: `ema` has `decay`, `warmup`"
    );
}

#[test]
fn a_value_of_a_wrong_type_is_named_with_its_key_and_where_it_was_written() {
    for (text, set, expected) in [
        (
            "[train]\nbatch_size = \"many\"\n",
            None,
            "`train.batch_size` in `job.toml` has a wrong value: \
             found string \"many\", expected a whole number, not negative",
        ),
        (
            "[train]\nepochs = 1.5\n",
            None,
            "`train.epochs` in `job.toml` has a wrong value: \
             found floating point `1.5`, expected a whole number, not negative",
        ),
        (
            "name = 5\n",
            None,
            "`name` in `job.toml` has a wrong value: found integer `5`, expected a text in quotes",
        ),
        (
            "train = 5\n",
            None,
            "`train` in `job.toml` has a wrong value: found integer `5`, expected a section of keys",
        ),
        (
            DATA,
            Some("data.stratify=maybe"),
            "`data.stratify` in `--set` has a wrong value: found string \"maybe\", expected true or false",
        ),
        (
            DATA,
            Some("train.slots=-1"),
            "`train.slots` in `--set` has a wrong value: \
             found integer `-1`, expected a whole number, not negative",
        ),
        (
            DATA,
            Some("data.mean=[0.5, 0.5]"),
            "`data.mean` in `--set` has a wrong value: \
             invalid length 2, expected an array of length 3",
        ),
        (
            DATA,
            Some("data.resize=cubic"),
            "`data.resize` in `--set` has a wrong value: \
             unknown variant `cubic`, expected `bilinear` or `bicubic`",
        ),
        (
            DATA,
            Some("train.precision=f8"),
            "`train.precision` in `--set` has a wrong value: \
             unknown variant `f8`, expected one of `f32`, `bf16`, `f16`",
        ),
    ] {
        let set: Vec<&str> = set.into_iter().collect();
        assert_eq!(refusal(text, &[], &set), expected);
    }
}

#[test]
fn an_impossible_value_and_missing_data_are_refused_with_the_key() {
    assert_eq!(
        refusal(DATA, &[], &["mix.prob=1.5"]),
        "job file: `mix.prob` is 1.5, but must be a probability between 0 and 1"
    );
    assert!(refusal("", &[], &[]).contains("`data.dir` is \"\""));
}

#[test]
fn a_file_that_is_not_toml_is_named_with_the_line() {
    let sentence = refusal("[train]\nepochs = \n", &[], &[]);
    assert!(
        sentence.starts_with("job file `job.toml` is not TOML: line 2: "),
        "{sentence}"
    );
    assert!(!sentence.contains('\n'), "{sentence}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Sources::of_file(Path::new("no-such.toml"))
        .resolve()
        .unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("cannot read job file `no-such.toml`: "),
        "{error}"
    );
}

#[test]
fn an_assignment_needs_a_key_and_a_value() {
    for assignment in ["train.epochs", "=3"] {
        let sentence = refusal(DATA, &[], &[assignment]);
        assert_eq!(
            sentence,
            format!(
                "`--set {assignment}` is not an assignment: write it as `--set section.key=value`"
            )
        );
    }
}

#[test]
fn a_job_is_meant_by_its_name_or_its_file() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("job.toml");
    std::fs::write(&file, "name = \"seedlings\"\n").unwrap();
    assert_eq!(job_name(&file.to_string_lossy()).unwrap(), "seedlings");
    assert_eq!(job_name("seedlings").unwrap(), "seedlings");
    assert!(job_name("missing.toml").is_err());
}
