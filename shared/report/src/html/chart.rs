//! A line chart over epochs or steps as SVG: in a page, or as a part of an image.

use maud::{Markup, html};

use crate::format::{UNKNOWN, loss, rate};

const WIDTH: f64 = 460.0;
const HEIGHT: f64 = 260.0;
/// Of the title and the legend above a drawing that has no page around it.
const HEAD: f64 = 44.0;
/// Characters of a legend, about, in units of the drawing.
const LETTER: f64 = 6.2;
const LEFT: f64 = 52.0;
const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 36.0;
/// Points are drawn while they are far enough apart to be seen.
const MAX_POINTS: usize = 40;
/// Places have a tooltip each while it is wide enough to be hit.
const MAX_TOOLTIPS: usize = 400;

/// What the vertical axis measures.
#[derive(Clone, Copy)]
pub enum Scale {
    Loss,
    /// A share of 0..1, shown in percent.
    Share,
    Rate,
}

/// One line. A value that is not finite leaves a gap.
pub struct Series {
    pub label: &'static str,
    /// The CSS class that colours it.
    pub class: &'static str,
    pub values: Vec<f64>,
}

/// Lines over the same epochs or steps.
pub struct Chart<'a> {
    pub title: String,
    pub scale: Scale,
    /// What is counted along the horizontal axis: `epoch` or `step`.
    pub unit: &'static str,
    /// Where along it values are known, ascending.
    pub places: &'a [u32],
    pub series: Vec<Series>,
}

// === impl Scale ===

impl Scale {
    pub fn write(self, value: f64) -> String {
        if !value.is_finite() {
            return UNKNOWN.to_string();
        }
        match self {
            Self::Loss => loss(value),
            Self::Share => crate::format::percent(value),
            Self::Rate => rate(value),
        }
    }

    pub fn write_tick(self, value: f64) -> String {
        match self {
            Self::Share => format!("{}%", rate(value * 100.0)),
            _ => rate(value),
        }
    }
}

// === impl Chart ===

impl Chart<'_> {
    /// Width and height of [`Chart::group`].
    pub const GROUP: [f64; 2] = [WIDTH, HEAD + HEIGHT];

    /// A figure with title, legend and drawing; nothing when no value is known.
    pub fn render(&self) -> Markup {
        let Some(drawing) = self.drawing() else {
            return html! {};
        };
        html! {
            figure.chart {
                figcaption {
                    h3 { (self.title) }
                    ul.legend {
                        @for series in self.shown() {
                            li {
                                svg.key viewBox="0 0 22 8" aria-hidden="true" { path.(series.class) d="M1 4H21" {} }
                                (series.label) " "
                                span.value { (self.scale.write(last_known(&series.values))) }
                            }
                        }
                    }
                }
                svg role="img" aria-label=(self.description()) viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) { (drawing) }
            }
        }
    }

    /// The same as a part of an SVG image, its upper left corner at `x` and `y`.
    pub fn group(&self, x: f64, y: f64) -> Markup {
        let Some(drawing) = self.drawing() else {
            return html! {};
        };
        let mut left = LEFT;
        let legend = self.shown().map(|series| {
            let text = format!(
                "{} {}",
                series.label,
                self.scale.write(last_known(&series.values))
            );
            let at = left;
            left += 26.0 + LETTER * text.chars().count() as f64 + 12.0;
            html! {
                path.(series.class) d=(format!("M{} 30h20", px(at))) {}
                text.legend x=(px(at + 26.0)) y="34" { (text) }
            }
        });
        html! {
            g role="img" aria-label=(self.description()) transform=(format!("translate({} {})", px(x), px(y))) {
                text.title x=(px(LEFT)) y="14" { (self.title) }
                @for entry in legend { (entry) }
                g transform=(format!("translate(0 {})", px(HEAD))) { (drawing) }
            }
        }
    }

    /// The values of the vertical axis that are marked: the first and the last enclose all that is drawn.
    /// None when no value is known.
    pub fn ticks(&self) -> Option<Vec<f64>> {
        let known = |series: &Series| {
            series
                .values
                .clone()
                .into_iter()
                .filter(|it| it.is_finite())
        };
        let values: Vec<f64> = self.series.iter().flat_map(known).collect();
        if values.is_empty() || self.places.is_empty() {
            return None;
        }
        let (mut low, ceiling) = match self.scale {
            Scale::Loss => (f64::INFINITY, f64::INFINITY),
            Scale::Share => (f64::INFINITY, 1.0),
            Scale::Rate => (0.0, f64::INFINITY),
        };
        low = values.iter().copied().fold(low, f64::min);
        let high = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        Some(ticks(low, high, ceiling))
    }

    /// The lines of which anything is known.
    pub fn shown(&self) -> impl Iterator<Item = &Series> {
        let known = |series: &&Series| series.values.iter().any(|value| value.is_finite());
        self.series.iter().filter(known)
    }

    /// Axes, lines and tooltips; nothing when no value is known.
    fn drawing(&self) -> Option<Markup> {
        let (&first, &last) = (self.places.first()?, self.places.last()?);
        let ticks = self.ticks()?;
        let (bottom, top) = (ticks[0], ticks[ticks.len() - 1]);
        let y = |value: f64| {
            HEIGHT - BOTTOM - (value - bottom) / (top - bottom) * (HEIGHT - TOP - BOTTOM)
        };
        let span = f64::from(last.saturating_sub(first)).max(1.0);
        let x = |place: u32| {
            let inner = WIDTH - LEFT - RIGHT;
            if first == last {
                LEFT + inner / 2.0
            } else {
                LEFT + (f64::from(place) - f64::from(first)) / span * inner
            }
        };
        let (left, right, floor) = (px(LEFT), px(WIDTH - RIGHT), px(HEIGHT - BOTTOM));

        Some(html! {
            g.axis aria-hidden="true" {
                @for &tick in &ticks {
                    line.grid x1=(left) x2=(right) y1=(px(y(tick))) y2=(px(y(tick))) {}
                    text x=(px(LEFT - 8.0)) y=(px(y(tick) + 4.0)) text-anchor="end" { (self.scale.write_tick(tick)) }
                }
                line.base x1=(left) x2=(right) y1=(floor) y2=(floor) {}
                @for place in whole_ticks(first, last) {
                    line.base x1=(px(x(place))) x2=(px(x(place))) y1=(floor) y2=(px(HEIGHT - BOTTOM + 4.0)) {}
                    text x=(px(x(place))) y=(px(HEIGHT - BOTTOM + 17.0)) text-anchor="middle" { (place) }
                }
                text.name x=(px((LEFT + WIDTH - RIGHT) / 2.0)) y=(px(HEIGHT - 4.0)) text-anchor="middle" { (self.unit) }
            }
            @for series in self.shown() {
                path.(series.class) d=(path(self.places, &series.values, x, y)) {}
                @if self.places.len() <= MAX_POINTS {
                    @for (&place, &value) in self.places.iter().zip(&series.values).filter(|(_, value)| value.is_finite()) {
                        circle.(series.class) cx=(px(x(place))) cy=(px(y(value))) r=(if first == last { "4" } else { "1.8" }) {}
                    }
                }
            }
            @if self.places.len() <= MAX_TOOLTIPS {
                @for (index, &place) in self.places.iter().enumerate() {
                    @let half = (WIDTH - LEFT - RIGHT) / span / 2.0;
                    g.hit {
                        title { (self.tooltip(index, place)) }
                        rect x=(px(x(place) - half)) y=(px(TOP)) width=(px(2.0 * half)) height=(px(HEIGHT - TOP - BOTTOM)) {}
                        line x1=(px(x(place))) x2=(px(x(place))) y1=(px(TOP)) y2=(floor) {}
                    }
                }
            }
        })
    }

    fn tooltip(&self, index: usize, place: u32) -> String {
        let head = format!("{} {place}", super::capitalised(self.unit));
        self.series.iter().fold(head, |text, series| {
            let value = series.values.get(index).copied().unwrap_or(f64::NAN);
            if value.is_finite() {
                format!("{text}\n{}: {}", series.label, self.scale.write(value))
            } else {
                text
            }
        })
    }

    fn description(&self) -> String {
        let lines: Vec<String> = self
            .series
            .iter()
            .filter_map(|series| {
                let first = series
                    .values
                    .iter()
                    .copied()
                    .find(|value| value.is_finite())?;
                let last = last_known(&series.values);
                Some(format!(
                    "{} from {} to {}",
                    series.label,
                    self.scale.write(first),
                    self.scale.write(last)
                ))
            })
            .collect();
        format!("{} by {}: {}", self.title, self.unit, lines.join(", "))
    }
}

fn last_known(values: &[f64]) -> f64 {
    values
        .iter()
        .rev()
        .copied()
        .find(|value| value.is_finite())
        .unwrap_or(f64::NAN)
}

/// SVG path data; a new piece begins after each gap.
fn path(places: &[u32], values: &[f64], x: impl Fn(u32) -> f64, y: impl Fn(f64) -> f64) -> String {
    let mut data = String::new();
    let mut pen_down = false;
    for (&place, &value) in places.iter().zip(values) {
        if value.is_finite() {
            data += &format!(
                "{}{} {}",
                if pen_down { "L" } else { "M" },
                px(x(place)),
                px(y(value))
            );
        }
        pen_down = value.is_finite();
    }
    data
}

fn px(length: f64) -> String {
    format!("{length:.1}")
}

/// Four to seven round values that enclose `low..=high`, none above `ceiling`.
fn ticks(low: f64, high: f64, ceiling: f64) -> Vec<f64> {
    let spread = if high > low {
        high - low
    } else {
        high.abs().max(1e-9)
    };
    let step = round_step(spread / 4.0);
    let first = (low / step + 1e-9).floor();
    let last = (high / step - 1e-9).ceil().max(first + 1.0);
    let count = (last - first) as usize;
    let all = (0..=count).map(|index| (first + index as f64) * step);
    // The sum of rounding errors must not push 100 % off its own axis.
    let ticks: Vec<f64> = all.filter(|&tick| tick <= ceiling + step * 1e-6).collect();
    if ticks.len() < 2 {
        vec![ceiling - step, ceiling]
    } else {
        ticks
    }
}

/// The next of 1, 2, 2.5, 5 and 10 times a power of ten.
fn round_step(at_least: f64) -> f64 {
    let power = 10f64.powf(at_least.log10().floor());
    let steps = [1.0, 2.0, 2.5, 5.0];
    steps
        .into_iter()
        .map(|step| step * power)
        .find(|&step| step >= at_least * 0.999)
        .unwrap_or(10.0 * power)
}

/// The first place and round ones behind it, eight or so.
pub fn whole_ticks(first: u32, last: u32) -> Vec<u32> {
    let spread = last.saturating_sub(first);
    let step = (0..9)
        .flat_map(|power| [1u32, 2, 5].map(|digit| digit * 10u32.pow(power)))
        .chain([25, 250])
        .filter(|step| spread / step <= 7)
        .min()
        .unwrap_or((spread / 6).max(1));
    let mut ticks = vec![first];
    let multiples = (u64::from(first / step + 1)..).map(|multiple| multiple * u64::from(step));
    let inside = multiples
        .take_while(|&place| place <= u64::from(last))
        .map(|place| place as u32);
    ticks.extend(inside.filter(|place| place - first >= step.div_ceil(2)));
    ticks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        let close = |found: Vec<f64>, expected: &[f64]| {
            assert_eq!(found.len(), expected.len(), "{found:?}");
            assert!(
                found
                    .iter()
                    .zip(expected)
                    .all(|(a, b)| (a - b).abs() < 1e-9),
                "{found:?}"
            );
        };
        close(ticks(0.31, 2.4, f64::INFINITY), &[0.0, 1.0, 2.0, 3.0]);
        close(ticks(0.42, 0.98, 1.0), &[0.4, 0.6, 0.8, 1.0]);
        close(
            ticks(0.0, 1e-3, f64::INFINITY),
            &[0.0, 2.5e-4, 5e-4, 7.5e-4, 1e-3],
        );
        for (low, high) in [(1.0, 1.0), (0.0, 0.0), (0.7, 0.7), (1e9, 1e12)] {
            let ticks = ticks(low, high, f64::INFINITY);
            assert!(
                ticks.len() >= 2 && ticks[0] <= low && ticks[ticks.len() - 1] >= high,
                "{ticks:?}"
            );
        }
    }

    #[test]
    fn whole_ticks_are_few_and_begin_with_the_first() {
        assert_eq!(whole_ticks(1, 1), [1]);
        assert_eq!(whole_ticks(1, 30), [1, 5, 10, 15, 20, 25, 30]);
        assert!(whole_ticks(0, u32::MAX).len() <= 9);
        assert_eq!(whole_ticks(1, 5000), [1, 1000, 2000, 3000, 4000, 5000]);
        assert_eq!(whole_ticks(7, 3), [7]);
    }

    #[test]
    fn a_line_is_broken_where_nothing_is_known() {
        let d = path(
            &[1, 2, 3, 4],
            &[1.0, f64::NAN, 2.0, 3.0],
            f64::from,
            |value| value,
        );
        assert_eq!(d, "M1.0 1.0M3.0 2.0L4.0 3.0");
    }
}
