//! The confusion matrix as a heat map, and the pairs most often confused.

use maud::{Markup, html};

use crate::format::{percent, thousands};
use crate::{Report, most_confused};

/// With more classes the heat map gives way to a longer list of pairs.
const MAX_CLASSES: usize = 60;
/// Text on a stronger colour is light.
const READABLE: f64 = 0.72;

pub fn section(report: &Report) -> Markup {
    let (_, evaluation) = report.reported();
    let confusion = &evaluation.confusion;
    let drawn = confusion.len() <= MAX_CLASSES;
    let pairs = most_confused(confusion);
    let shown = if drawn { 8 } else { 25 };
    html! {
        section {
            h2 { "What is taken for what" }
            @if drawn {
                p.note { "Each row is a class as it is, each column what the network called it. Colour is the share of the row." }
                (legend())
                (heat_map(report, confusion))
            } @else {
                p.note { "With " (thousands(confusion.len() as u64)) " classes the matrix is too large to read; these are the pairs most often confused." }
            }
            @if pairs.is_empty() {
                p { "No picture was taken for another class." }
            } @else {
                h3 { "Most often confused" }
                div.scroll tabindex="0" role="group" aria-label="Most often confused" {
                    table.pairs {
                        thead { tr { th scope="col" { "Is" } th scope="col" { "Taken for" } th scope="col" { "Pictures" } th scope="col" { "Share" } } }
                        tbody { @for pair in pairs.iter().take(shown) { tr {
                            td { (report.class_name(pair.truth)) } td { (report.class_name(pair.predicted)) }
                            td { (thousands(pair.count)) } td { (percent(pair.share)) }
                        } } }
                    }
                }
            }
        }
    }
}

fn heat_map(report: &Report, confusion: &[Vec<u64>]) -> Markup {
    let names: Vec<String> = (0..confusion.len())
        .map(|index| report.class_name(index))
        .collect();
    html! {
        div.scroll tabindex="0" role="group" aria-label="Confusion matrix" {
            table.matrix.dense[confusion.len() > 24] style=(format!("--classes:{}", confusion.len())) {
                thead { tr {
                    td { span { "is ↓  called →" } }
                    @for name in &names { th scope="col" { span { (name) } } }
                } }
                tbody { @for (truth, row) in confusion.iter().enumerate() {
                    @let support = row.iter().sum::<u64>();
                    tr {
                        th scope="row" { (names[truth]) }
                        @for (predicted, &count) in row.iter().enumerate() {
                            @let share = if support == 0 { 0.0 } else { count as f64 / support as f64 };
                            @let strength = strength(share);
                            @if count == 0 {
                                td.none { "0" }
                            } @else {
                                td.right[truth == predicted].wrong[truth != predicted].strong[strength > READABLE]
                                    style=(format!("--s:{strength:.2}"))
                                    title=(format!("{} called {}: {count} ({})", names[truth], report.class_name(predicted), percent(share)))
                                    { (count) }
                            }
                        }
                    }
                } }
            }
        }
    }
}

fn legend() -> Markup {
    let steps = [0.01, 0.05, 0.1, 0.25, 0.5, 1.0];
    let strip = |class: &str, name: &str| {
        html! {
            span.strip {
                (name)
                @for share in steps {
                    @let strength = strength(share);
                    i.(class).strong[strength > READABLE] style=(format!("--s:{strength:.2}")) { (format!("{:.0}", share * 100.0)) }
                }
                "%"
            }
        }
    };
    html! { p.heat-legend aria-hidden="true" { (strip("right", "right")) (strip("wrong", "wrong")) } }
}

/// How strongly a share is coloured: small shares of errors must be seen beside the diagonal.
fn strength(share: f64) -> f64 {
    0.06 + 0.94 * share.powf(0.6)
}
