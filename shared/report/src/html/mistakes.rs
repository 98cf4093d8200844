//! The most confident mistakes as picture cards.

use maud::{Markup, html};

use crate::format::percent;
use crate::{Mistake, Report};

/// Cards shown.
const MAX_CARDS: usize = 24;

pub fn section(report: &Report) -> Markup {
    let (_, evaluation) = report.reported();
    let mut mistakes: Vec<&Mistake> = evaluation.mistakes.iter().collect();
    mistakes.sort_by(|a, b| b.confidence.total_cmp(&a.confidence));
    html! {
        section {
            h2 { "Most confident mistakes" }
            @if mistakes.is_empty() {
                p { "There are none." }
            } @else {
                p.note { "The wrong answers that the network was surest of. Look at them first: some may be labelled wrongly." }
                ul.cards { @for mistake in mistakes.iter().take(MAX_CARDS) { (card(report, mistake)) } }
            }
        }
    }
}

fn card(report: &Report, mistake: &Mistake) -> Markup {
    let truth = report.class_name(mistake.truth as usize);
    let predicted = report.class_name(mistake.predicted as usize);
    let file = mistake
        .path
        .rsplit(['/', '\\'])
        .next()
        .unwrap_or(&mistake.path);
    let picture = mistake
        .thumbnail
        .as_deref()
        .filter(|uri| uri.starts_with("data:image/"));
    html! {
        li {
            @match picture {
                Some(uri) => img src=(uri) alt=(format!("{truth}, taken for {predicted}")) loading="lazy";,
                None => div.no-picture { "no picture" },
            }
            dl {
                div.was { dt { "is" } dd { (truth) } }
                div.called { dt { "called" } dd { (predicted) } }
            }
            p.sure { meter min="0" max="1" value=(format!("{:.3}", finite(mistake.confidence))) aria-label="confidence" {} span { (percent(mistake.confidence)) " sure" } }
            p.file title=(mistake.path) { (file) }
        }
    }
}

fn finite(value: f64) -> f64 {
    if value.is_finite() { value } else { 0.0 }
}
