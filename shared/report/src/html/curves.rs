//! How training went: four charts and the table of all epochs.

use maud::{Markup, html};

use super::LONG_TABLE;
use super::chart::{Chart, Scale, Series};
use crate::format::{UNKNOWN, duration, loss, percent, rate, whole};
use crate::{EpochRecord, Report};

/// What is drawn of `records`, which are of `epochs`; accuracies are of the best guess and of the best `k`.
pub fn charts<'a>(records: &[EpochRecord], epochs: &'a [u32], k: u32) -> [Chart<'a>; 4] {
    let series =
        |label: &'static str, class: &'static str, value: fn(&EpochRecord) -> f64| Series {
            label,
            class,
            values: records.iter().map(value).collect(),
        };
    let chart = |title: &str, scale, series| Chart {
        title: title.to_string(),
        scale,
        unit: "epoch",
        places: epochs,
        series,
    };
    [
        chart(
            "Loss",
            Scale::Loss,
            vec![
                series("training", "train", |r| r.train_loss),
                series("validation", "raw", |r| r.val_loss),
                series("EMA", "ema", |r| r.ema_loss.unwrap_or(f64::NAN)),
            ],
        ),
        chart(
            "Top-1",
            Scale::Share,
            vec![
                series("training", "train", |r| r.train_top1),
                series("validation", "raw", |r| r.val_top1),
                series("EMA", "ema", |r| r.ema_top1.unwrap_or(f64::NAN)),
            ],
        ),
        chart(
            &format!("Top-{k}"),
            Scale::Share,
            vec![
                series("validation", "raw", |r| r.val_top5),
                series("EMA", "ema", |r| r.ema_top5.unwrap_or(f64::NAN)),
            ],
        ),
        chart(
            "Learning rate",
            Scale::Rate,
            vec![series("at the end of the epoch", "rate", |r| {
                r.learning_rate
            })],
        ),
    ]
}

pub fn section(report: &Report) -> Markup {
    let records = &report.epochs;
    if records.is_empty() {
        return html! {};
    }
    let epochs: Vec<u32> = records.iter().map(|record| record.epoch).collect();
    html! {
        section {
            h2 { "Training" }
            p.note {
                (sentence(report))
                " The training loss is taken on changed pictures and softened labels, so it can lie above the validation loss. EMA is measured on the validation pictures too."
            }
            div.charts {
                @for chart in charts(records, &epochs, report.raw.k) { (chart.render()) }
            }
            (table(report))
        }
    }
}

fn sentence(report: &Report) -> String {
    let progress = super::capitalised(&report.progress());
    match report.best_epoch() {
        Some(best) => format!(
            "{progress}. Best epoch by top-1 of the {}: {}.",
            report.reported().0.name(),
            best.epoch
        ),
        None => format!("{progress}."),
    }
}

fn table(report: &Report) -> Markup {
    let best = report.best_epoch().map(|record| record.epoch);
    let k = report.raw.k;
    let is_scaled = report
        .epochs
        .iter()
        .any(|record| record.loss_scale.is_some());
    let optional =
        |value: Option<f64>, write: fn(f64) -> String| value.map_or(UNKNOWN.to_string(), write);
    html! {
        details {
            summary { "All epochs in numbers" }
            div.scroll.long[report.epochs.len() > LONG_TABLE] tabindex="0" role="group" aria-label="All epochs" {
                table.epochs {
                    thead { tr {
                        @for name in ["Epoch", "Train loss", "Train top-1", "Loss", "Top-1"] { th scope="col" { (name) } }
                        th scope="col" { "Top-" (k) }
                        @for name in ["EMA loss", "EMA top-1"] { th scope="col" { (name) } }
                        th scope="col" { "EMA top-" (k) }
                        @for name in ["Learning rate", "Gradient norm"] { th scope="col" { (name) } }
                        @if is_scaled { @for name in ["Loss scale", "Skipped steps"] { th scope="col" { (name) } } }
                        @for name in ["Images/s", "Time", "Workers"] { th scope="col" { (name) } }
                    } }
                    tbody { @for r in &report.epochs {
                        tr.best[Some(r.epoch) == best] {
                            th scope="row" { (r.epoch) @if Some(r.epoch) == best { span.badge { "best" } } }
                            td { (loss(r.train_loss)) } td { (percent(r.train_top1)) }
                            td { (loss(r.val_loss)) } td { (percent(r.val_top1)) } td { (percent(r.val_top5)) }
                            td { (optional(r.ema_loss, loss)) } td { (optional(r.ema_top1, percent)) } td { (optional(r.ema_top5, percent)) }
                            td { (rate(r.learning_rate)) } td { (rate(r.grad_norm)) }
                            @if is_scaled {
                                td { (optional(r.loss_scale, whole)) }
                                td { (optional(r.skipped_steps.map(|steps| steps as f64), whole)) }
                            }
                            td { (whole(r.images_per_second)) } td { (duration(r.seconds)) } td { (r.workers) }
                        }
                    } }
                }
            }
        }
    }
}
