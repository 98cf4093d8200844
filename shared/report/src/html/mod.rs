//! The report as one HTML page: no script, nothing loaded from elsewhere, light and dark, screen and paper.
//!
//! Text from outside goes through maud, which escapes it; the content security policy forbids what could
//! slip through nevertheless.

pub(crate) mod chart;
pub(crate) mod curves;
mod live;
mod matrix;
mod mistakes;
mod settings;

pub use live::{Live, Stretch};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use crate::format::{counted, date, loss, percent, thousands};
use crate::{ClassScores, ClassificationReport, Evaluation, Overall, Report, Scores};

const POLICY: &str = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'";

/// Colours, and how charts look: of the report and of every page that shows its charts.
pub const STYLE: &str = concat!(include_str!("palette.css"), include_str!("charts.css"));

/// Tables with more rows scroll inside their box.
const LONG_TABLE: usize = 40;

// === impl Report ===

impl Report {
    /// As one self-contained HTML page.
    pub fn to_html(&self) -> String {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content=(POLICY);
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="generator" content=(format!("perennial {}", self.program_version));
                    title { (self.job) " – evaluation report" }
                    style { (PreEscaped(STYLE)) (PreEscaped(include_str!("page.css"))) }
                }
                body {
                    (self.page_header())
                    main {
                        (self.headline())
                        (curves::section(self))
                        (self.class_section())
                        (matrix::section(self))
                        (mistakes::section(self))
                        (settings::section(self))
                        (settings::provenance(self))
                    }
                    footer {
                        p { "Made by Perennial " (self.program_version) " on " time datetime=(self.created) { (date(&self.created)) } "." }
                    }
                }
            }
        };
        page.into_string()
    }

    fn page_header(&self) -> Markup {
        let data = &self.data;
        html! {
            header {
                p.eyebrow {
                    "Evaluation report"
                    @if !self.finished { span.badge { "in progress" } }
                }
                h1 { (self.job) }
                p.lead {
                    "The network " strong { (self.model.name) } " (" (parameters(self.model.parameters)) "), trained on "
                    (counted(data.train_samples, "picture")) " of " (counted(data.classes.len() as u64, "class"))
                    " and evaluated on " (counted(self.raw.samples, "picture")) " that it had not been trained on."
                }
            }
        }
    }

    fn headline(&self) -> Markup {
        let (reported, _) = self.reported();
        let cards = self
            .ema
            .iter()
            .map(|ema| (crate::Weights::Ema, ema))
            .chain([(crate::Weights::Raw, &self.raw)]);
        html! {
            section.headline aria-label="Result" {
                @for (weights, evaluation) in cards {
                    @let leads = weights == reported;
                    article.result.leads[leads] {
                        h2 { @match weights { crate::Weights::Ema => "EMA weights", crate::Weights::Raw => "Raw weights" } }
                        p.figure { (percent(evaluation.top1)) span { "top-1" } }
                        p.note { (right_answers(evaluation)) }
                        dl {
                            div { dt { "top-" (evaluation.k) } dd { (percent(evaluation.top5)) } }
                            div { dt { "loss" } dd { (loss(evaluation.loss)) } }
                            @if let Some((low, high)) = wilson_interval(evaluation) {
                                div { dt { "95% interval" } dd { (format!("{:.1}–{:.1}%", low * 100.0, high * 100.0)) } }
                            }
                        }
                    }
                }
            }
            @if let Some(ema) = &self.ema {
                p.note {
                    "EMA is the moving average of the weights over the last steps of training. Below, scores and mistakes are those of the "
                    strong { (reported.name()) }
                    @if ema.top1 == self.raw.top1 { "; both have the same top-1." } @else { ", which have the higher top-1." }
                }
            }
        }
    }

    fn class_section(&self) -> Markup {
        let (weights, evaluation) = self.reported();
        let ClassificationReport {
            classes,
            overall,
            macro_avg,
            weighted_avg,
            ..
        } = self.classification(evaluation);
        let long = classes.len() > LONG_TABLE;
        html! {
            section {
                h2 { "Scores of each class" }
                p.note {
                    "Precision: how many of those called by this name are. Recall: how many of those that are were found. "
                    "F1: the harmonic mean of both. Support: pictures of the class. " (capitalised(weights.name())) "."
                }
                div.scroll.long[long] tabindex="0" role="group" aria-label="Scores of each class" {
                    table.scores {
                        thead { tr {
                            th scope="col" { "Class" } th scope="col" { "Precision" } th scope="col" { "Recall" }
                            th scope="col" { "F1" } th scope="col" { "Support" }
                        } }
                        tbody { @for ClassScores { name, scores } in &classes { (scores_row(name, scores)) } }
                        tfoot {
                            @match &overall {
                                Overall::Accuracy(accuracy) => tr {
                                    th scope="row" { "Accuracy" } td {} td {} (score_cell(*accuracy)) td { (thousands(macro_avg.support)) }
                                },
                                Overall::MicroAvg(scores) => (scores_row("Micro average", scores)),
                            }
                            (scores_row("Macro average", &macro_avg))
                            (scores_row("Weighted average", &weighted_avg))
                        }
                    }
                }
            }
        }
    }
}

fn scores_row(name: &str, scores: &Scores) -> Markup {
    html! {
        tr {
            th scope="row" { (name) }
            td { (format!("{:.2}", scores.precision)) }
            td { (format!("{:.2}", scores.recall)) }
            (score_cell(scores.f1_score))
            td { (thousands(scores.support)) }
        }
    }
}

/// A score with a bar behind it.
fn score_cell(score: f64) -> Markup {
    html! { td.bar style=(format!("--share:{:.3}", score)) { (format!("{score:.2}")) } }
}

fn parameters(count: u64) -> String {
    match count {
        0..10_000 => counted(count, "parameter"),
        10_000..1_000_000 => format!("{:.0} thousand parameters", count as f64 / 1e3),
        1_000_000.. => format!("{:.1} million parameters", count as f64 / 1e6),
    }
}

fn right_answers(evaluation: &Evaluation) -> String {
    let diagonal = |(index, row): (usize, &Vec<u64>)| row.get(index).copied().unwrap_or(0);
    let right: u64 = evaluation.confusion.iter().enumerate().map(diagonal).sum();
    format!(
        "{} of {} right",
        thousands(right),
        counted(evaluation.samples, "picture")
    )
}

/// Wilson's score interval for top-1: where it would be on more pictures of the same kind, with 95 % confidence.
fn wilson_interval(evaluation: &Evaluation) -> Option<(f64, f64)> {
    const Z: f64 = 1.959_963_984_540_054;
    let (n, p) = (evaluation.samples as f64, evaluation.top1);
    if n == 0.0 || !(0.0..=1.0).contains(&p) {
        return None;
    }
    let center = p + Z * Z / (2.0 * n);
    let half = Z * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + Z * Z / n;
    Some((
        ((center - half) / scale).max(0.0),
        ((center + half) / scale).min(1.0),
    ))
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |first| {
        first.to_uppercase().chain(chars).collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interval_is_wilsons() {
        let evaluation = Evaluation {
            samples: 10,
            loss: 0.0,
            top1: 0.8,
            top5: 1.0,
            k: 5,
            confusion: vec![],
            mistakes: vec![],
        };
        let (low, high) = wilson_interval(&evaluation).unwrap();
        assert!(
            (low - 0.490_16).abs() < 1e-4 && (high - 0.943_32).abs() < 1e-4,
            "{low} {high}"
        );
        assert_eq!(
            wilson_interval(&Evaluation {
                samples: 0,
                ..evaluation
            }),
            None
        );
    }
}
