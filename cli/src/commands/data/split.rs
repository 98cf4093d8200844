//! `perennial data split`.

use std::path::PathBuf;

use perennial_data::split_folder;
use serde::Serialize;

use crate::output::{Output, counted, table};

/// Put each picture of SRC/CLASS into DST/train/CLASS or DST/val/CLASS
///
/// The same files land on the same side as with scikit-learn's train_test_split. SRC is not changed.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// A folder with one folder of pictures a class
    src: PathBuf,
    /// A new or an empty folder
    dst: PathBuf,
    /// The share of pictures that validate
    #[arg(long, default_value_t = 0.3, value_parser = share)]
    val: f64,
    #[arg(long, default_value_t = 42)]
    seed: u32,
    /// Keep each class's share on both sides
    #[arg(long)]
    stratify: bool,
}

#[derive(Serialize)]
struct Answer {
    dir: PathBuf,
    train: usize,
    val: usize,
    /// Those that share no bytes with the source.
    copied: usize,
    classes: Vec<ClassAnswer>,
    empty_folders: Vec<String>,
}

#[derive(Serialize)]
struct ClassAnswer {
    name: String,
    train: usize,
    val: usize,
}

pub fn run(args: Args, output: Output) -> anyhow::Result<()> {
    let summary = split_folder(&args.src, &args.dst, args.val, args.seed, args.stratify)?;
    let counts = summary.train.iter().zip(&summary.val);
    let answer = Answer {
        dir: args.dst,
        train: summary.train.iter().sum(),
        val: summary.val.iter().sum(),
        copied: summary.copied,
        classes: summary
            .classes
            .into_iter()
            .zip(counts)
            .map(|(name, (train, val))| ClassAnswer {
                name,
                train: *train,
                val: *val,
            })
            .collect(),
        empty_folders: summary.empty_folders,
    };
    output.print(&answer, || text(&answer))
}

fn text(answer: &Answer) -> String {
    let mut rows = vec![["class", "train", "val"].map(String::from).to_vec()];
    rows.extend(answer.classes.iter().map(|class| {
        vec![
            class.name.clone(),
            class.train.to_string(),
            class.val.to_string(),
        ]
    }));
    rows.push(vec![
        "all".to_string(),
        answer.train.to_string(),
        answer.val.to_string(),
    ]);
    let mut text = table(&rows);
    if !answer.empty_folders.is_empty() {
        let names = answer.empty_folders.join(", ");
        text.push_str(&format!("folders without pictures, left out: {names}\n"));
    }
    text.push_str(&format!(
        "{} in {}",
        counted((answer.train + answer.val) as u64, "picture"),
        answer.dir.display()
    ));
    text
}

/// A number between 0 and 1, both excluded.
pub fn share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if share > 0.0 && share < 1.0 => Ok(share),
        _ => Err("must be between 0 and 1, both excluded".to_string()),
    }
}
