//! `export-onnx`. What the models compute is tested where they are written.

use perennial_model::onnx::proto::{DimensionProto, ModelProto};
use prost::Message;

use crate::support::{Kept, names, run, trained, workshop, write};

fn entry<'a>(model: &'a ModelProto, key: &str) -> &'a str {
    let found = model.metadata_props.iter().find(|it| it.key == key);
    &found.unwrap().value
}

fn batch(model: &ModelProto) -> DimensionProto {
    let input = model.graph.as_ref().unwrap().input[0].clone();
    let tensor = input.r#type.unwrap().tensor_type.unwrap();
    tensor.shape.unwrap().dim[0].clone()
}

#[test]
fn a_checkpoint_and_the_weights_exported_from_it_give_the_same_model() {
    let folder = trained();
    let folder = folder.path();
    let perennial = |line: &str| run(folder, &line.split(' ').collect::<Vec<_>>());
    let model = |name: &str| {
        let bytes = std::fs::read(folder.join(name)).unwrap();
        (ModelProto::decode(bytes.as_slice()).unwrap(), bytes)
    };
    for ema in ["", " --ema"] {
        let kind = format!("w{}", ema.trim());
        let line = format!("checkpoint export tiny{ema} --out {kind}.safetensors --json");
        let hash = perennial(&line).json()["weights_sha256"].clone();
        let answer = perennial(&format!("export-onnx tiny{ema} {kind}-job.onnx --json")).json();
        let line = format!("export-onnx --weights {kind}.safetensors {kind}-file.onnx --json");
        perennial(&line).ok();
        let (read, bytes) = model(&format!("{kind}-job.onnx"));
        assert_eq!(bytes, model(&format!("{kind}-file.onnx")).1, "{kind}");
        assert_eq!(answer["weights_sha256"], hash, "{kind}");
        assert_eq!(answer["bytes"], bytes.len());
        assert_eq!(entry(&read, "weights_sha256"), hash.as_str().unwrap());
        assert_eq!(entry(&read, "image_size"), "32");
        assert_eq!(answer["classes"], 3);
    }
    assert_ne!(model("w-job.onnx").1, model("w--ema-job.onnx").1);

    perennial("export-onnx tiny best.onnx --best --batch 4 --normalise").ok();
    let (fixed, free) = (model("best.onnx").0, model("w-job.onnx").0);
    assert_ne!(batch(&fixed), batch(&free));
    assert_eq!(
        entry(&fixed, "weights_sha256"),
        entry(&free, "weights_sha256")
    );

    let before = names(folder);
    let sentence = perennial("export-onnx tiny best.onnx").refused(1);
    assert_eq!(
        sentence,
        "`best.onnx` exists already and is not overwritten"
    );
    let sentence = perennial("export-onnx tiny other.onnx --step 99").refused(1);
    let expected = "job `tiny` has no checkpoint of step 99: it has ";
    assert!(sentence.starts_with(expected), "{sentence}");
    assert_eq!(names(folder), before);
}

#[test]
fn what_cannot_be_exported_is_said_in_one_sentence() {
    let kept = Kept::with_checkpoints();
    let folder = kept.folder.path();
    write(folder, "text.safetensors", "no weights");
    kept.run("checkpoint export tiny --out small.safetensors")
        .ok();
    let before = names(folder);
    for (line, expected) in [
        (
            "--weights text.safetensors",
            "`text.safetensors` is not a complete safetensors file",
        ),
        (
            "--weights none.safetensors",
            "cannot read `none.safetensors`",
        ),
        (
            "--weights small.safetensors",
            "small.safetensors: the file does not say what its network is",
        ),
        (
            "--weights small.safetensors --model resnet50 --classes a,b",
            "unknown network `resnet50`",
        ),
        (
            "--weights small.safetensors --model casvit_xs --classes a,b",
            "small.safetensors: the weights are of another network",
        ),
        ("nothing", "no job `nothing` in store `store`: it has tiny"),
    ] {
        let sentence = kept.run(&format!("export-onnx {line} out.onnx")).refused(1);
        assert!(sentence.contains(expected), "{line}: {sentence}");
    }
    assert_eq!(names(folder), before, "nothing is half written");
}

#[test]
fn a_model_of_nothing_or_of_two_things_is_a_wrong_command() {
    let folder = workshop();
    for line in [
        "export-onnx out.onnx",
        "export-onnx tiny out.onnx --weights w.safetensors",
        "export-onnx --weights w.safetensors out.onnx --best",
        "export-onnx tiny out.onnx --batch 0",
        "export-onnx tiny out.onnx more.onnx",
        "export-onnx --store store",
    ] {
        let ran = run(folder.path(), &line.split(' ').collect::<Vec<_>>());
        assert_eq!(ran.code, Some(2), "{line}: {ran:?}");
    }
}
