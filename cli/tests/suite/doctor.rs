use serde_json::Value;

use crate::support::{names, run, workshop, write};

#[test]
fn a_machine_that_can_train_is_said_to_be_fine_and_left_as_it_was() {
    let folder = workshop();
    std::fs::create_dir(folder.path().join("kept")).unwrap();
    let before = names(folder.path());
    let line = ["doctor", "--data", "pictures", "--store", "kept", "--json"];
    let json = run(folder.path(), &line).ok();
    let checks: Vec<Value> = json
        .lines()
        .map(|it| serde_json::from_str(it).unwrap())
        .collect();
    let found = |name: &str| {
        let check = checks.iter().find(|check| check["name"] == name);
        check.unwrap_or_else(|| panic!("no {name} in {json}"))
    };
    for name in ["processor", "cores", "memory", "store", "data"] {
        assert_ne!(found(name)["state"], "failed", "{json}");
    }
    assert_eq!(
        found("store")["found"],
        "`kept` can be written and overwrites nothing"
    );
    let data = found("data")["found"].as_str().unwrap();
    assert!(
        data.starts_with("30 pictures of 3 classes in `pictures`"),
        "{data}"
    );
    run(folder.path(), &["doctor"]).ok();
    assert_eq!(names(folder.path()), before, "nothing is made by looking");
    assert!(names(&folder.path().join("kept")).is_empty());
}

#[test]
fn what_would_stop_a_training_is_told_with_what_to_do() {
    let folder = workshop();
    write(folder.path(), "file", "");
    let ran = run(
        folder.path(),
        &["doctor", "--store", "file", "--data", "nowhere"],
    );
    let failed: Vec<&str> = ran
        .stdout
        .lines()
        .filter(|it| it.starts_with("FAILED"))
        .collect();
    assert_eq!(failed.len(), 2, "{ran:?}");
    assert!(
        failed[0].contains("`file`") || failed[0].contains("file"),
        "{ran:?}"
    );
    assert!(failed[0].contains("; name a folder"), "{ran:?}");
    assert!(
        failed[1].contains("nowhere") && failed[1].contains("; put one folder"),
        "{ran:?}"
    );
    assert_eq!(ran.refused(1), "2 checks failed");

    let picture = names(&folder.path().join("pictures")).remove(0);
    let first = format!("pictures/{picture}");
    let first = format!("{first}/{}", names(&folder.path().join(&first)).remove(0));
    write(folder.path(), &first, "no picture");
    let ran = run(folder.path(), &["doctor", "--data", "pictures"]);
    assert!(ran.stdout.contains(&first), "{ran:?}");
    assert_eq!(ran.refused(1), "1 check failed");
}
