//! What a page shows of a job while it runs: fragments to be put into a page that has [`STYLE`](super::STYLE).

use maud::{Markup, html};

use super::chart::{Chart, Scale, Series, whole_ticks};
use super::curves::charts;
use crate::EpochRecord;
use crate::format::counted;

/// Steps that are drawn; where there are more, a point is the mean of several.
const POINTS: usize = 300;
const WIDTH: f64 = 960.0;
const LEFT: f64 = 64.0;
const RIGHT: f64 = 14.0;
const ROW: f64 = 26.0;
const BOTTOM: f64 = 36.0;
/// Workers and stretches that are drawn, the latest ones.
const ROWS: usize = 24;
const STRETCHES: usize = 200;
/// A bar at least so wide has its number of slots written in it.
const LEGIBLE: f64 = 26.0;

/// The numbers of a job, step by step and epoch by epoch.
#[derive(Debug, Clone, Copy)]
pub struct Live<'a> {
    /// Steps, the job's first one on.
    pub steps: u64,
    pub epochs: &'a [EpochRecord],
    /// As in [`Curves`](crate::Curves).
    pub k: u32,
}

/// Steps that the same members computed.
#[derive(Debug, Clone, PartialEq)]
pub struct Stretch {
    /// The first step, from 1, and the last one.
    pub first: u64,
    pub last: u64,
    /// Workers, and how many slots of each step each of them computed.
    pub members: Vec<(String, u32)>,
}

// === impl Live ===

impl Live<'_> {
    /// Charts of loss, top-1 and learning rate by epoch; empty before the first one is done.
    pub fn by_epoch(&self) -> String {
        let epochs: Vec<u32> = self.epochs.iter().map(|record| record.epoch).collect();
        let [loss, top1, _, rate] = charts(self.epochs, &epochs, self.k);
        html! { @for chart in [loss, top1, rate] { (chart.render()) } }.into_string()
    }

    /// Charts by step of the loss, pictures a second and the gradient's norm, which `numbers` has for each step from
    /// 0. Empty before the first one.
    pub fn by_step(&self, numbers: impl Fn(u64) -> [f64; 3]) -> String {
        let bucket = (self.steps as usize).div_ceil(POINTS).max(1) as u64;
        let mut places = Vec::new();
        let mut means: [Vec<f64>; 3] = Default::default();
        let mut step = 0;
        while step < self.steps {
            let end = (step + bucket).min(self.steps);
            let mut sums = [0.0; 3];
            for numbers in (step..end).map(&numbers) {
                for (sum, number) in sums.iter_mut().zip(numbers) {
                    *sum += number;
                }
            }
            for (mean, sum) in means.iter_mut().zip(sums) {
                mean.push(sum / (end - step) as f64);
            }
            places.push(u32::try_from(end).unwrap_or(u32::MAX));
            step = end;
        }
        let names = [
            ("Loss", Scale::Loss, "training", "raw"),
            ("Speed", Scale::Rate, "images/s", "ema"),
            ("Gradient norm", Scale::Rate, "before clipping", "rate"),
        ];
        let drawn = names.into_iter().zip(means);
        let drawn = drawn.map(|((title, scale, label, class), values)| {
            let chart = Chart {
                title: title.to_string(),
                scale,
                unit: "step",
                places: &places,
                series: vec![Series {
                    label,
                    class,
                    values,
                }],
            };
            chart.render()
        });
        html! { @for chart in drawn { (chart) } }.into_string()
    }
}

// === impl Stretch ===

impl Stretch {
    /// Who computed how many slots, and when: a row a worker, a bar a stretch. Empty where there is none.
    pub fn timeline(stretches: &[Self]) -> String {
        let stretches = &stretches[stretches.len().saturating_sub(STRETCHES)..];
        let (Some(first), Some(last)) = (
            stretches.iter().map(|it| it.first).min(),
            stretches.iter().map(|it| it.last).max(),
        ) else {
            return String::new();
        };
        let mut workers: Vec<&str> = Vec::new();
        for (worker, _) in stretches.iter().flat_map(|it| &it.members) {
            if !workers.contains(&worker.as_str()) {
                workers.push(worker);
            }
        }
        let left_out = workers.len().saturating_sub(ROWS);
        let workers = &workers[left_out..];
        let timeline = Timeline {
            stretches,
            workers,
            first,
            last: last.max(first),
        };
        timeline.render(left_out).into_string()
    }

    fn slots_of(&self, worker: &str) -> Option<u32> {
        let found = self.members.iter().find(|(name, _)| name == worker);
        found.map(|(_, slots)| *slots)
    }
}

struct Timeline<'a> {
    stretches: &'a [Stretch],
    workers: &'a [&'a str],
    first: u64,
    last: u64,
}

// === impl Timeline ===

impl Timeline<'_> {
    /// The left edge of a step's place.
    fn x(&self, step: u64) -> f64 {
        let steps = (self.last - self.first + 1) as f64;
        LEFT + step.saturating_sub(self.first) as f64 / steps * (WIDTH - LEFT - RIGHT)
    }

    fn render(&self, left_out: usize) -> Markup {
        let floor = ROW * self.workers.len() as f64;
        let height = floor + BOTTOM;
        let ticks = whole_ticks(narrow(self.first), narrow(self.last));
        html! {
            figure.timeline {
                svg role="img" aria-label=(self.description()) viewBox=(format!("0 0 {WIDTH} {height}")) {
                    g.axis aria-hidden="true" {
                        line.base x1=(LEFT) x2=(WIDTH - RIGHT) y1=(floor) y2=(floor) {}
                        @for tick in ticks {
                            @let x = format!("{:.1}", (self.x(u64::from(tick)) + self.x(u64::from(tick) + 1)) / 2.0);
                            line.base x1=(x) x2=(x) y1=(floor) y2=(floor + 4.0) {}
                            text x=(x) y=(floor + 17.0) text-anchor="middle" { (tick) }
                        }
                        text.name x=((LEFT + WIDTH - RIGHT) / 2.0) y=(height - 3.0) text-anchor="middle" { "step" }
                        @for (row, worker) in self.workers.iter().enumerate() {
                            text x=(LEFT - 8.0) y=(ROW * row as f64 + 17.0) text-anchor="end" { (worker) }
                        }
                    }
                    @for (row, worker) in self.workers.iter().enumerate() {
                        @for stretch in self.stretches { (self.bar(row, worker, stretch)) }
                    }
                }
                @if left_out > 0 { p.note { (counted(left_out as u64, "earlier worker")) " not shown." } }
            }
        }
    }

    fn bar(&self, row: usize, worker: &str, stretch: &Stretch) -> Markup {
        let Some(slots) = stretch
            .slots_of(worker)
            .filter(|_| stretch.first <= stretch.last)
        else {
            return html! {};
        };
        let (x, end) = (self.x(stretch.first), self.x(stretch.last + 1));
        let width = (end - x).max(1.5);
        let all: u32 = stretch.members.iter().map(|(_, slots)| slots).sum();
        let share = f64::from(slots) / f64::from(all.max(1));
        let (first, last) = (stretch.first, stretch.last);
        html! {
            g.bar {
                title { (worker) ": " (counted(u64::from(slots), "slot")) ", steps " (first) " to " (last) }
                rect x=(format!("{x:.1}")) y=(ROW * row as f64 + 3.0) width=(format!("{:.1}", (width - 1.0).max(1.0))) height=(ROW - 6.0)
                    rx="2" fill-opacity=(format!("{:.2}", 0.3 + 0.7 * share)) {}
                @if width >= LEGIBLE {
                    text x=(format!("{:.1}", x + width / 2.0)) y=(ROW * row as f64 + 17.0) text-anchor="middle" { (slots) }
                }
            }
        }
    }

    fn description(&self) -> String {
        let of = |worker: &&str| {
            let served = self
                .stretches
                .iter()
                .filter(|it| it.slots_of(worker).is_some());
            let (first, last) = served.fold((u64::MAX, 0), |(first, last), it| {
                (first.min(it.first), last.max(it.last))
            });
            format!("{worker} from step {first} to {last}")
        };
        let workers: Vec<String> = self.workers.iter().map(of).collect();
        format!("Slots of each member by step: {}", workers.join(", "))
    }
}

fn narrow(step: u64) -> u32 {
    u32::try_from(step).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stretch(first: u64, last: u64, members: &[(&str, u32)]) -> Stretch {
        let members = members
            .iter()
            .map(|(name, slots)| (name.to_string(), *slots));
        Stretch {
            first,
            last,
            members: members.collect(),
        }
    }

    #[test]
    fn a_long_job_is_drawn_with_a_bounded_number_of_points() {
        let live = Live {
            steps: 1_000_003,
            epochs: &[],
            k: 5,
        };
        let drawn = live.by_step(|step| [step as f64, f64::NAN, 2.0]);
        assert!(drawn.len() < 200_000, "{}", drawn.len());
        assert!(drawn.contains("Loss by step: training from"), "{drawn}");
        assert!(!drawn.contains("Speed"), "nothing is known of it");
        assert_eq!(live.by_epoch(), "");
        assert_eq!(Live { steps: 0, ..live }.by_step(|_| [0.0; 3]), "");
    }

    #[test]
    fn the_timeline_has_a_row_for_each_worker_and_says_it_in_words() {
        let drawn = Stretch::timeline(&[
            stretch(1, 10, &[("w1", 4)]),
            stretch(11, 40, &[("w1", 2), ("w<2>", 2)]),
        ]);
        assert!(
            drawn.contains("w1 from step 1 to 40, w&lt;2&gt; from step 11 to 40"),
            "{drawn}"
        );
        assert_eq!(drawn.matches("<rect").count(), 3);
        assert_eq!(Stretch::timeline(&[]), "");
    }

    #[test]
    fn a_generation_that_never_took_a_step_has_no_bar() {
        let drawn =
            Stretch::timeline(&[stretch(1, 10, &[("w1", 4)]), stretch(11, 10, &[("w2", 4)])]);
        assert_eq!(drawn.matches("<rect").count(), 1);
    }
}
