use perennial_store::PartKind;
use perennial_store::tensors::{decode, weights_sha256};

use crate::support::{Kept, names, weights};

#[test]
fn the_list_has_a_line_a_checkpoint() {
    let kept = Kept::with_checkpoints();
    let text = kept.run("checkpoint list tiny").ok();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines.len(), 4, "{text}");
    let hash = weights_sha256(&weights(20.0));
    for word in [
        "20",
        "2 epochs",
        "2026-01-02T03:04:05Z",
        "80.0 %",
        &hash[..12],
    ] {
        assert!(lines[2].contains(word), "{text}");
    }
    let json = kept.run("checkpoint list tiny --json").ok();
    let steps: Vec<u64> = json
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["step"]
                .as_u64()
                .unwrap()
        })
        .collect();
    assert_eq!(steps, [10, 20, 30]);
}

#[test]
fn a_job_is_named_by_its_file_as_well() {
    let kept = Kept::with_checkpoints();
    crate::support::write(kept.folder.path(), "some.toml", "name = \"tiny\"\n");
    assert_eq!(
        kept.run("checkpoint list some.toml").ok(),
        kept.run("checkpoint list tiny").ok()
    );
}

#[test]
fn sound_checkpoints_are_said_to_be_sound() {
    let kept = Kept::with_checkpoints();
    assert_eq!(
        kept.run("checkpoint verify tiny").ok(),
        "step 10: sound\nstep 20: sound\nstep 30: sound\n"
    );
    let json = kept.run("checkpoint verify tiny --step 20 --json").json();
    assert_eq!(
        json,
        serde_json::json!({"step": 20, "sound": true, "problems": []})
    );
}

#[test]
fn every_broken_part_is_named_with_what_is_wrong_with_it() {
    let kept = Kept::with_checkpoints();
    let flipped = kept.part(10, PartKind::Optimizer);
    let mut bytes = std::fs::read(&flipped).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&flipped, bytes).unwrap();
    let truncated = kept.part(20, PartKind::Model);
    let bytes = std::fs::read(&truncated).unwrap();
    std::fs::write(&truncated, &bytes[..bytes.len() - 1]).unwrap();
    std::fs::remove_file(kept.part(20, PartKind::Ema)).unwrap();

    let ran = kept.run("checkpoint verify tiny");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    assert_eq!(lines.len(), 4, "{ran:?}");
    assert!(lines[0].contains("optimizer-00001") && lines[0].contains("has SHA-256"));
    assert!(
        lines[1].contains("model-00001") && lines[1].contains("bytes` instead of")
            || lines[1].contains("bytes instead of"),
        "{ran:?}"
    );
    assert!(lines[2].contains("ema-00001") && lines[2].contains("is missing"));
    assert_eq!(lines[3], "step 30: sound");
    assert_eq!(ran.refused(1), "2 of 3 checkpoints broken: step 10, 20");

    let ran = kept.run("checkpoint export tiny --step 20 --out w.safetensors");
    assert!(ran.refused(1).contains("model-00001"));
    assert_eq!(
        names(kept.folder.path()),
        ["store"],
        "nothing is half written"
    );
}

#[test]
fn a_broken_manifest_is_a_broken_checkpoint() {
    let kept = Kept::with_checkpoints();
    let manifest = kept
        .part(20, PartKind::Model)
        .with_file_name("MANIFEST.json");
    std::fs::write(manifest, "{").unwrap();
    let ran = kept.run("checkpoint verify tiny");
    assert!(ran.stdout.contains("step 30: sound"), "{ran:?}");
    assert_eq!(ran.refused(1), "1 of 3 checkpoints broken: step 20");
}

#[test]
fn an_export_is_the_checkpoint_that_was_asked_for() {
    let kept = Kept::with_checkpoints();
    for (options, value) in [
        ("", 30.0),
        (" --step 10", 10.0),
        (" --best", 20.0),
        (" --best --ema", 20.5),
    ] {
        let file = kept.folder.path().join("weights.safetensors");
        let line = format!("checkpoint export tiny{options} --out weights.safetensors --json");
        let json = kept.run(&line).json();
        let exported = decode(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(exported, weights(value), "{options}");
        assert_eq!(json["weights_sha256"], weights_sha256(&exported));
        std::fs::remove_file(file).unwrap();
    }
}

#[test]
fn an_export_overwrites_nothing_and_leaves_nothing_behind() {
    let kept = Kept::with_checkpoints();
    crate::support::write(kept.folder.path(), "mine.safetensors", "mine");
    let sentence = kept
        .run("checkpoint export tiny --out mine.safetensors")
        .refused(1);
    assert_eq!(
        sentence,
        "`mine.safetensors` exists already and is not overwritten"
    );
    let sentence = kept
        .run("checkpoint export tiny --out no/such/folder.safetensors")
        .refused(1);
    assert!(
        sentence.starts_with("cannot write `no/such/folder.safetensors`: "),
        "{sentence}"
    );
    assert_eq!(names(kept.folder.path()), ["mine.safetensors", "store"]);
    let mine = std::fs::read(kept.folder.path().join("mine.safetensors")).unwrap();
    assert_eq!(mine, b"mine");
}

#[test]
fn what_is_not_there_is_named_with_what_is() {
    let kept = Kept::with_checkpoints();
    for command in [
        "checkpoint verify tiny --step 15",
        "checkpoint export tiny --step 15 --out w",
    ] {
        assert_eq!(
            kept.run(command).refused(1),
            "job `tiny` has no checkpoint of step 15: it has 10, 20, 30"
        );
    }
    assert_eq!(
        kept.run("checkpoint list other").refused(1),
        "no job `other` in store `store`: it has tiny"
    );
    let folder = tempfile::tempdir().unwrap();
    let sentence = crate::support::run(folder.path(), &["checkpoint", "list", "tiny"]).refused(1);
    assert_eq!(
        sentence,
        "store `perennial-store` is not there: name the one of the job with --store"
    );
    assert_eq!(names(folder.path()).len(), 0, "no store is made by looking");

    let empty = Kept::empty();
    assert_eq!(
        empty.run("checkpoint list tiny").ok(),
        "job tiny has no checkpoint yet\n"
    );
    assert_eq!(
        empty.run("checkpoint verify tiny").refused(1),
        "job `tiny` has no checkpoint yet"
    );
}
