//! The curves of a job alone, whether it still runs or not: for a terminal, as an image, for programs.

use maud::{PreEscaped, html};
use serde::Serialize;

use crate::format::clean;
use crate::html::chart::{Chart, Series};
use crate::html::curves::charts;
use crate::picture::png;
use crate::{EpochRecord, ReportError};

/// Characters of a chart's lines in a terminal, without its axis.
const COLUMNS: usize = 64;
const ROWS: usize = 11;
/// Characters of the axis.
const AXIS: usize = 9;
/// Between the charts of an image, and around them.
const GAP: f64 = 28.0;

/// What happened epoch by epoch.
#[derive(Debug, Clone, Copy)]
pub struct Curves<'a> {
    pub job: &'a str,
    pub epochs: &'a [EpochRecord],
    /// The guesses among which the true class may be for `top5`: 5, or the number of classes where there are fewer.
    pub k: u32,
}

#[derive(Serialize)]
struct Line<'a> {
    event: &'static str,
    #[serde(flatten)]
    record: &'a EpochRecord,
}

// === impl Curves ===

impl Curves<'_> {
    /// One JSON object a line: the records, as events of the name `epoch`.
    pub fn to_json_lines(&self) -> String {
        let line = |record| {
            let event = "epoch";
            serde_json::to_string(&Line { event, record }).expect("a record is plain data")
        };
        self.epochs.iter().map(|it| line(it) + "\n").collect()
    }

    /// One chart below the other, of letters.
    pub fn to_text(&self) -> String {
        let epochs = self.numbers();
        let charts = charts(self.epochs, &epochs, self.k);
        let drawn: Vec<String> = charts.iter().filter_map(draw).collect();
        format!("{}\n\n{}", clean(self.job), drawn.join("\n"))
    }

    /// An image that needs nothing beside it.
    pub fn to_svg(&self) -> String {
        let epochs = self.numbers();
        let [width, height] = Chart::GROUP;
        let top = GAP + 24.0;
        let (across, down) = (2.0 * width + 3.0 * GAP, top + 2.0 * height + 2.0 * GAP);
        let places = (0..4).map(|at| {
            let (column, row) = (f64::from(at % 2), f64::from(at / 2));
            (GAP + column * (width + GAP), top + row * (height + GAP))
        });
        let image = html! {
            svg xmlns="http://www.w3.org/2000/svg" width=(across) height=(down) viewBox=(format!("0 0 {across} {down}")) {
                title { "Training curves of " (self.job) }
                style { (PreEscaped(include_str!("curves.css"))) }
                rect.paper width="100%" height="100%" {}
                text.job x=(GAP) y=(GAP + 4.0) { (self.job) }
                @for ((x, y), chart) in places.zip(charts(self.epochs, &epochs, self.k)) { (chart.group(x, y)) }
            }
        };
        image.into_string() + "\n"
    }

    /// The same image as PNG, with a font of its own.
    pub fn to_png(&self) -> Result<Vec<u8>, ReportError> {
        png(&self.to_svg())
    }

    fn numbers(&self) -> Vec<u32> {
        self.epochs.iter().map(|record| record.epoch).collect()
    }
}

/// The letter of a line.
fn mark(series: &Series) -> char {
    match series.class {
        "train" => '.',
        "raw" => 'o',
        _ => '*',
    }
}

/// A chart of letters; nothing when no value is known.
fn draw(chart: &Chart) -> Option<String> {
    let (&first, &last) = (chart.places.first()?, chart.places.last()?);
    let ticks = chart.ticks()?;
    let (bottom, top) = (ticks[0], ticks[ticks.len() - 1]);
    let row = |value: f64| ((top - value) / (top - bottom) * (ROWS - 1) as f64).round() as usize;
    let mut grid = [[' '; COLUMNS]; ROWS];
    for series in chart.shown() {
        let share = |column| column as f64 / (COLUMNS - 1) as f64;
        let line = (0..COLUMNS).map(|column| between(&series.values, share(column)));
        for (column, value) in line.enumerate() {
            if value.is_finite() {
                grid[row(value).min(ROWS - 1)][column] = mark(series);
            }
        }
    }
    let mut labels = vec![String::new(); ROWS];
    for tick in &ticks {
        labels[row(*tick).min(ROWS - 1)] = chart.scale.write_tick(*tick);
    }
    let legend = chart.shown().map(|series| {
        let known = series.values.iter().rev().find(|value| value.is_finite());
        let value = chart.scale.write(known.copied().unwrap_or(f64::NAN));
        format!("  {} {} {value}", mark(series), series.label)
    });
    let mut text = format!("{}{}\n", chart.title, legend.collect::<String>());
    for (label, line) in labels.iter().zip(&grid) {
        let line: String = line.iter().collect();
        text += format!("{label:>AXIS$} |{line}").trim_end();
        text.push('\n');
    }
    text += &format!("{:>AXIS$} +{}\n", "", "-".repeat(COLUMNS));
    let right = COLUMNS - first.to_string().len();
    text += &format!("{:>AXIS$}  {first}{last:>right$}\n", "epoch");
    Some(text)
}

/// The value at this share of the way from the first to the last, between two neighbours.
fn between(values: &[f64], share: f64) -> f64 {
    let at = share * (values.len() - 1) as f64;
    let (before, after) = (at.floor() as usize, at.ceil() as usize);
    let weight = at - at.floor();
    match weight {
        0.0 => values[before],
        weight => values[before] * (1.0 - weight) + values[after] * weight,
    }
}
