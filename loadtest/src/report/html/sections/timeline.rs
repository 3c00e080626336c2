//! What happened when, all targets in each plot.

use maud::{Markup, html};

use super::objectives;
use crate::report::{
    ClassObjectives, Report, SliceReport,
    html::{
        plot::{Axis, Plot, Reading, Scale, Style},
        show::{Unit, seconds},
    },
};

/// Counts of shorter slices are drawn together.
const SHORTEST_S: f64 = 1.0;

pub(super) fn timeline(report: &Report) -> Option<Markup> {
    let run = Run::of(report)?;
    let has_failures = report
        .targets
        .iter()
        .flat_map(|target| &target.timeline)
        .any(|slice| slice.refused + slice.failed > 0);
    Some(html! {
        p.remark {
            "By when requests were due; tokens and answers on their way by the clock."
            @if run.has_uncounted() { " What is shaded does not count." }
            @if report.chaos.as_ref().is_some_and(|chaos| !chaos.faults.is_empty()) {
                " Numbered lines are " a href="#faults" { "faults" } "."
            }
        }
        (run.requests(report))
        @if has_failures { (run.unanswered(report)) }
        (run.latency(report, "TTFT", |slice| [slice.ttft_p50_ms, slice.ttft_p99_ms], |class| class.ttft_ms))
        (run.latency(report, "TPOT", |slice| [slice.tpot_p50_ms, slice.tpot_p99_ms], |class| class.tpot_ms))
        (run.steps(report, "tokens", "Output tokens per second", |slice| slice.tokens_per_s * slice.width_s))
        (run.in_flight(report))
    })
}

/// What all plots have in common.
struct Run {
    seconds: Axis,
    /// Parts that do not count.
    uncounted: Vec<(f64, f64)>,
    faults: Vec<f64>,
}

impl Run {
    fn of(report: &Report) -> Option<Run> {
        let slices = || report.targets.iter().flat_map(|target| &target.timeline);
        let end = slices().map(end).fold(0.0, f64::max);
        if end <= 0.0 {
            return None;
        }
        let faults: Vec<f64> =
            report.chaos.iter().flat_map(|chaos| &chaos.faults).map(|fault| fault.at_s).collect();
        let end = faults.iter().copied().fold(end, f64::max);
        let longest =
            report.targets.iter().max_by(|a, b| a.timeline.len().cmp(&b.timeline.len()))?;
        let uncounted = longest.timeline.chunk_by(|a, b| a.counts == b.counts).filter_map(|same| {
            let (first, last) = (same.first()?, same.last()?);
            (!first.counts).then(|| (first.at_s, self::end(last)))
        });
        Some(Run {
            seconds: Axis { scale: Scale::linear(0.0, end), unit: Unit::Seconds },
            uncounted: uncounted.collect(),
            faults,
        })
    }

    fn has_uncounted(&self) -> bool {
        !self.uncounted.is_empty()
    }

    fn plot(&self, id: &str, title: &str, y: Axis) -> Plot {
        let mut plot = Plot::new(format!("over-{id}"), title, self.seconds, y).class("flat");
        plot.about = format!("{title}, over {}", seconds(self.seconds.scale.high()));
        for (from, to) in &self.uncounted {
            plot.band(*from, *to, "uncounted");
        }
        for (number, at) in self.faults.iter().enumerate() {
            plot.mark_x(*at, (number + 1).to_string(), "fault");
        }
        plot
    }

    fn requests(&self, report: &Report) -> Markup {
        let offered = |slice: &SliceReport| slice.offered as f64;
        let met = |slice: &SliceReport| slice.met as f64;
        let all = report.targets.iter().flat_map(|target| rates(&target.timeline, offered));
        let y = Axis { scale: Scale::from_zero(all.map(|rate| rate.1)), unit: Unit::Number };
        let mut plot = self.plot("requests", "Requests per second", y).reading(Reading::Step);
        let mut drawn: Vec<Vec<(f64, f64)>> = Vec::new();
        for target in &report.targets {
            let rates = rates(&target.timeline, offered);
            // Targets that are asked at the same time are asked the same.
            if drawn.iter().all(|known| !begins_like(known, &rates)) {
                plot.line(
                    &Style::common("offered").class("common filled"),
                    std::slice::from_ref(&rates),
                );
                drawn.push(rates);
            }
        }
        for (place, target) in report.targets.iter().enumerate() {
            plot.line(
                &Style::of(place, format!("{} in time", target.name)),
                &[rates(&target.timeline, met)],
            );
        }
        plot.draw()
    }

    fn unanswered(&self, report: &Report) -> Markup {
        self.steps(report, "unanswered", "Refused or failed per second", |slice| {
            (slice.refused + slice.failed) as f64
        })
    }

    fn steps(&self, report: &Report, id: &str, title: &str, of: fn(&SliceReport) -> f64) -> Markup {
        let all = report.targets.iter().flat_map(|target| rates(&target.timeline, of));
        let y = Axis { scale: Scale::from_zero(all.map(|rate| rate.1)), unit: Unit::Number };
        let mut plot = self.plot(id, title, y).reading(Reading::Step);
        for (place, target) in report.targets.iter().enumerate() {
            plot.line(&Style::of(place, &target.name), &[rates(&target.timeline, of)]);
        }
        plot.draw()
    }

    fn in_flight(&self, report: &Report) -> Markup {
        let all = report.targets.iter().flat_map(|target| &target.timeline);
        let y = Axis {
            scale: Scale::from_zero(all.map(|slice| slice.in_flight as f64)),
            unit: Unit::Number,
        };
        let mut plot = self.plot("in-flight", "Answers on their way", y);
        for (place, target) in report.targets.iter().enumerate() {
            let points = target.timeline.iter().map(|slice| (end(slice), slice.in_flight as f64));
            plot.line(&Style::of(place, &target.name), &[points.collect()]);
        }
        plot.draw()
    }

    fn latency(
        &self,
        report: &Report,
        name: &str,
        of: fn(&SliceReport) -> [Option<f64>; 2],
        objective: fn(&ClassObjectives) -> Option<f64>,
    ) -> Markup {
        /// A limit farther away would flatten everything.
        const FAR: f64 = 2.5;
        let slices = report.targets.iter().flat_map(|target| &target.timeline);
        let mut values: Vec<f64> = slices.flat_map(of).flatten().collect();
        let most = values.iter().copied().fold(0.0, f64::max);
        if values.is_empty() {
            return html! {};
        }
        let near: Vec<_> =
            objectives(report, objective).into_iter().filter(|(_, ms)| *ms <= FAR * most).collect();
        values.extend(near.iter().map(|(_, ms)| *ms));
        let scale = Scale::fitting(values.iter().copied());
        let y = Axis { scale, unit: Unit::Milliseconds };
        let mut plot = self.plot(&name.to_lowercase(), &format!("{name}, P50 and P99"), y);
        for (label, limit) in &near {
            plot.mark_y(*limit, &format!("{label} {}", Unit::Milliseconds.tick(*limit)), "wanted");
        }
        for (place, target) in report.targets.iter().enumerate() {
            for (quantile, label, class) in [(0, "P50", ""), (1, "P99", "thin")] {
                let style = Style::of(place, format!("{} {label}", target.name)).class(class);
                let pieces = self.pieces(&target.timeline, |slice| of(slice)[quantile]);
                let points: usize = pieces.iter().map(Vec::len).sum();
                plot.line(&style.with_points(points <= 70), &pieces);
            }
        }
        plot.draw()
    }

    /// Lines end where nothing was answered for long.
    fn pieces(
        &self,
        slices: &[SliceReport],
        of: impl Fn(&SliceReport) -> Option<f64>,
    ) -> Vec<Vec<(f64, f64)>> {
        let width = slices.first().map_or(1.0, |slice| slice.width_s);
        let longest = (0.04 * self.seconds.scale.high()).max(3.0 * width);
        let points =
            slices.iter().filter_map(|slice| Some((slice.at_s + slice.width_s / 2.0, of(slice)?)));
        let points: Vec<_> = points.collect();
        let near = |a: &(f64, f64), b: &(f64, f64)| b.0 - a.0 <= longest;
        points.chunk_by(near).map(<[_]>::to_vec).collect()
    }
}

fn end(slice: &SliceReport) -> f64 {
    slice.at_s + slice.width_s
}

/// A second's, in steps.
fn rates(slices: &[SliceReport], of: impl Fn(&SliceReport) -> f64) -> Vec<(f64, f64)> {
    let width = slices.first().map_or(1.0, |slice| slice.width_s).max(1e-6);
    let together = ((SHORTEST_S / width).ceil() as usize).max(1);
    let steps = slices.chunks(together).filter_map(|chunk| {
        let (from, to) = (chunk.first()?.at_s, end(chunk.last()?));
        let rate = chunk.iter().map(&of).sum::<f64>()
            / (to - from).max(SHORTEST_S.min(width * together as f64));
        Some([(from, rate), (to, rate)])
    });
    steps.flatten().collect()
}

/// One may be longer by what it still had to answer.
fn begins_like(one: &[(f64, f64)], other: &[(f64, f64)]) -> bool {
    let shorter = one.len().min(other.len()).saturating_sub(2);
    one[..shorter] == other[..shorter]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slice(at_s: f64, offered: u64) -> SliceReport {
        SliceReport {
            at_s,
            width_s: 0.5,
            offered,
            met: 0,
            completed: 0,
            refused: 0,
            failed: 0,
            ttft_p50_ms: (offered > 0).then_some(1.0),
            ttft_p99_ms: None,
            tpot_p50_ms: None,
            tpot_p99_ms: None,
            tokens_per_s: 0.0,
            in_flight: 0,
            counts: true,
        }
    }

    #[test]
    fn short_slices_are_counted_by_the_second() {
        let slices = [slice(0.0, 3), slice(0.5, 1), slice(1.0, 2)];
        let rates = rates(&slices, |slice| slice.offered as f64);
        assert_eq!(rates, [(0.0, 4.0), (1.0, 4.0), (1.0, 2.0), (1.5, 2.0)]);
    }

    #[test]
    fn a_line_ends_where_nothing_was_answered() {
        let run = Run {
            seconds: Axis { scale: Scale::linear(0.0, 10.0), unit: Unit::Seconds },
            uncounted: Vec::new(),
            faults: Vec::new(),
        };
        let offered = [1, 0, 1, 0, 0, 0, 0, 1];
        let slices: Vec<_> = (0_u32..)
            .zip(offered)
            .map(|(at, offered)| slice(0.5 * f64::from(at), offered))
            .collect();
        let pieces = run.pieces(&slices, |slice| slice.ttft_p50_ms);
        assert_eq!(pieces.iter().map(Vec::len).collect::<Vec<_>>(), [2, 1]);
    }
}
