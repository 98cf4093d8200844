//! The report for a terminal of 80 to 100 columns.

use std::fmt::Write;

use crate::format::{
    UNKNOWN, clean, counted, date, duration, loss, percent, rate, thousands, whole,
};
use crate::{EpochRecord, Evaluation, Report, most_confused};

/// Characters of a curve.
const CURVE_WIDTH: usize = 40;
/// Epochs that the table shows besides the best.
const LAST_EPOCHS: usize = 8;
/// Lines of the shorter lists.
const LIST: usize = 8;

/// Lines under headings.
struct Page(String);

// === impl Page ===

impl Page {
    fn line(&mut self, text: impl std::fmt::Display) {
        writeln!(self.0, "{text}").expect("writing to a string cannot fail");
    }

    fn heading(&mut self, text: &str) {
        self.line(format_args!(
            "\n{text}\n{}",
            "─".repeat(text.chars().count())
        ));
    }

    fn fact(&mut self, name: &str, value: impl std::fmt::Display) {
        self.line(format_args!("{name:<13} {value}"));
    }
}

// === impl Report ===

impl Report {
    /// As text: facts, curves, scores of each class, confusions and hashes.
    pub fn to_text(&self) -> String {
        let mut page = Page(String::new());
        self.write_facts(&mut page);
        self.write_scores(&mut page);
        self.write_curves(&mut page);
        self.write_epochs(&mut page);
        self.write_classes(&mut page);
        self.write_hashes(&mut page);
        page.0
    }

    fn write_facts(&self, page: &mut Page) {
        let title = format!("Evaluation report: {}", clean(&self.job));
        page.line(&title);
        page.line("═".repeat(title.chars().count()));

        let start = match &self.model.weights {
            Some(file) => format!("started from {}", clean(file)),
            None => "from a random start".to_string(),
        };
        let parameters = thousands(self.model.parameters);
        page.fact(
            "model",
            format_args!(
                "{}, {parameters} parameters, {start}",
                clean(&self.model.name)
            ),
        );
        let data = &self.data;
        page.fact(
            "data",
            format_args!(
                "{}: {} classes, {} training and {} validation pictures",
                clean(&data.dir),
                thousands(data.classes.len() as u64),
                thousands(data.train_samples),
                thousands(data.val_samples)
            ),
        );
        if data.skipped > 0 {
            page.fact(
                "",
                format_args!("{} left out as unreadable", counted(data.skipped, "file")),
            );
        }
        page.fact("progress", self.progress());
        page.fact(
            "cluster",
            format_args!(
                "{} at the end, {}",
                counted(self.workers.into(), "worker"),
                counted(self.generations, "generation")
            ),
        );
        page.fact("numerics", clean(&self.numerics));
        if !self.is_exact() {
            page.fact("reduction", "fast: the weights depend on the workers");
        }
        page.fact(
            "written",
            format_args!(
                "{} by perennial {}",
                date(&clean(&self.created)),
                clean(&self.program_version)
            ),
        );
    }

    /// `finished: 30 epochs, 1,350 steps, 12 min 3 s`, or how far it is.
    pub(crate) fn progress(&self) -> String {
        let done = u64::from(self.epochs_done);
        let epochs = match self.planned_epochs() {
            Some(planned) if !self.finished => format!("{done} of {}", counted(planned, "epoch")),
            _ => counted(done, "epoch"),
        };
        let state = if self.finished {
            "finished"
        } else {
            "not finished"
        };
        let steps = counted(self.global_step, "step");
        format!("{state}: {epochs}, {steps}, {}", duration(self.seconds()))
    }

    fn write_scores(&self, page: &mut Page) {
        page.heading("Result on the validation pictures");
        let columns: Vec<(&str, &Evaluation)> = self
            .ema
            .iter()
            .map(|ema| ("EMA weights", ema))
            .chain([("raw weights", &self.raw)])
            .collect();
        let row = |name: &str, value: &dyn Fn(&Evaluation) -> String| {
            columns
                .iter()
                .fold(format!("{name:<13}"), |line, (_, evaluation)| {
                    line + &format!(" {:>14}", value(evaluation))
                })
        };
        page.line(columns.iter().fold(" ".repeat(13), |line, (name, _)| {
            line + &format!(" {name:>14}")
        }));
        page.line(row("top-1", &|e| percent(e.top1)));
        page.line(row(&format!("top-{}", self.raw.k), &|e| percent(e.top5)));
        page.line(row("loss", &|e| loss(e.loss)));
        page.line(row("pictures", &|e| thousands(e.samples)));
    }

    fn write_curves(&self, page: &mut Page) {
        let epochs = &self.epochs;
        let (Some(first), Some(last)) = (epochs.first(), epochs.last()) else {
            return;
        };
        page.heading(&format!("Curves, epoch {} to {}", first.epoch, last.epoch));
        let mut curve =
            |name: &str, write: fn(f64) -> String, value: &dyn Fn(&EpochRecord) -> f64| {
                let values: Vec<f64> = epochs.iter().map(value).collect();
                let known = || values.iter().copied().filter(|value| value.is_finite());
                if let (Some(first), Some(last)) = (known().next(), known().next_back()) {
                    let range = format!("{} → {}", write(first), write(last));
                    page.fact(name, format_args!("{}  {range}", sparkline(&values)));
                }
            };
        curve("train loss", loss, &|e| e.train_loss);
        curve("val loss", loss, &|e| e.val_loss);
        curve("EMA loss", loss, &|e| e.ema_loss.unwrap_or(f64::NAN));
        curve("val top-1", percent, &|e| e.val_top1);
        curve("EMA top-1", percent, &|e| e.ema_top1.unwrap_or(f64::NAN));
        curve("learning rate", rate, &|e| e.learning_rate);
    }

    fn write_epochs(&self, page: &mut Page) {
        if self.epochs.is_empty() {
            return;
        }
        page.heading("Epochs");
        page.line(
            "epoch  train loss  val loss   top-1   top-5     EMA  learning rate  images/s  workers",
        );
        let best = self.best_epoch().map(|record| record.epoch);
        let tail = self.epochs.len().saturating_sub(LAST_EPOCHS);
        let is_best = |record: &EpochRecord| Some(record.epoch) == best;
        for (index, record) in self.epochs.iter().enumerate() {
            if index < tail && !is_best(record) {
                continue;
            }
            page.line(format_args!(
                "{:>5}  {:>10}  {:>8}  {:>6}  {:>6}  {:>6}  {:>13}  {:>8}  {:>7}{}",
                record.epoch,
                loss(record.train_loss),
                loss(record.val_loss),
                percent(record.val_top1),
                percent(record.val_top5),
                record.ema_top1.map_or(UNKNOWN.to_string(), percent),
                rate(record.learning_rate),
                whole(record.images_per_second),
                record.workers,
                if is_best(record) { "  best" } else { "" },
            ));
        }
    }

    fn write_classes(&self, page: &mut Page) {
        let (weights, evaluation) = self.reported();
        page.heading(&format!("Scores of each class ({})", weights.name()));
        let mut scores = self.classification(evaluation);
        for class in &mut scores.classes {
            class.name = clean(&class.name);
        }
        page.line(scores.to_text(2).trim_end());

        let pairs = most_confused(&evaluation.confusion);
        if !pairs.is_empty() {
            page.heading("Most often confused");
        }
        let name = |index: usize| clean(&self.class_name(index));
        for pair in pairs.iter().take(LIST) {
            let (truth, share) = (name(pair.truth), percent(pair.share));
            page.line(format_args!(
                "{:>5} × {truth} taken for {} ({share} of {truth})",
                pair.count,
                name(pair.predicted)
            ));
        }

        if !evaluation.mistakes.is_empty() {
            page.heading("Most confident mistakes");
        }
        for mistake in evaluation.mistakes.iter().take(LIST) {
            page.line(format_args!(
                "{:>6}  {} is {}, taken for {}",
                percent(mistake.confidence),
                clean(&mistake.path),
                name(mistake.truth as usize),
                name(mistake.predicted as usize)
            ));
        }
    }

    fn write_hashes(&self, page: &mut Page) {
        page.heading("Hashes");
        let hashes = [
            ("weights", self.weights_sha256.as_deref()),
            ("EMA weights", self.ema_sha256.as_deref()),
            ("Ledger root", self.ledger_root.as_deref()),
            ("data", Some(self.data.fingerprint.as_str())),
        ];
        for (name, hash) in hashes {
            if let Some(hash) = hash {
                page.fact(name, clean(hash));
            }
        }
        if let Some(command) = &self.command {
            page.line(format_args!("\nTrain it again: {}", clean(command)));
        }
    }
}

/// One character an epoch, or a group of epochs where there are more than fit. A gap where nothing is known.
fn sparkline(values: &[f64]) -> String {
    const LEVELS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let known = || values.iter().copied().filter(|value| value.is_finite());
    let low = known().fold(f64::INFINITY, f64::min);
    let high = known().fold(f64::NEG_INFINITY, f64::max);
    let width = values.len().min(CURVE_WIDTH);
    let mut line = String::new();
    for position in 0..width {
        let group = &values[position * values.len() / width..(position + 1) * values.len() / width];
        let group: Vec<f64> = group
            .iter()
            .copied()
            .filter(|value| value.is_finite())
            .collect();
        if group.is_empty() {
            line.push(' ');
            continue;
        }
        let mean = group.iter().sum::<f64>() / group.len() as f64;
        let height = if high > low {
            (mean - low) / (high - low)
        } else {
            0.5
        };
        line.push(LEVELS[((height * 7.0).round() as usize).min(7)]);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_rises_with_its_values_and_leaves_gaps() {
        assert_eq!(sparkline(&[0.0, f64::NAN, 7.0]), "▁ █");
        assert_eq!(sparkline(&[3.0]), "▅");
        assert_eq!(sparkline(&[]), "");
        let many: Vec<f64> = (0..1000).map(f64::from).collect();
        let line: Vec<char> = sparkline(&many).chars().collect();
        assert_eq!(line.len(), CURVE_WIDTH);
        assert!(line.is_sorted());
    }
}
