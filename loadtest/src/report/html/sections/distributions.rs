//! How long things took: cumulative distributions, all targets in one plot, and their quantiles.

use maud::{Markup, html};

use super::{name_of, objectives, quantile_name, scrolled};
use crate::{
    report::{
        ClassObjectives, LatencyReport, Report, TargetReport,
        html::{
            plot::{Axis, Plot, Reading, Scale, Style, colour},
            show::{Unit, count, ms, percent, range},
        },
    },
    slo::Quantile,
};

/// One kind of latency.
struct Kind {
    id: &'static str,
    title: &'static str,
    of: fn(&TargetReport) -> Option<&LatencyReport>,
    objective: fn(&ClassObjectives) -> Option<f64>,
    is_small: bool,
}

const KINDS: [Kind; 5] = [
    Kind {
        id: "ttft",
        title: "Time to first token (TTFT), from when it was due",
        of: |target| target.latencies.ttft.as_ref(),
        objective: |class| class.ttft_ms,
        is_small: false,
    },
    Kind {
        id: "tpot",
        title: "Time per output token (TPOT), a request's mean",
        of: |target| target.latencies.tpot.as_ref(),
        objective: |class| class.tpot_ms,
        is_small: false,
    },
    Kind {
        id: "itl",
        title: "Inter-token latency (ITL), each gap",
        of: |target| target.latencies.itl.as_ref(),
        objective: |_| None,
        is_small: true,
    },
    Kind {
        id: "e2e",
        title: "End to end",
        of: |target| target.latencies.e2e.as_ref(),
        objective: |class| class.e2e_ms,
        is_small: true,
    },
    Kind {
        id: "gap",
        title: "Longest gap of each request",
        of: |target| target.latencies.longest_gap.as_ref(),
        objective: |_| None,
        is_small: true,
    },
];

const MARKED: [(Quantile, f64); 3] =
    [(Quantile::P50, 0.5), (Quantile::P90, 0.9), (Quantile::P99, 0.99)];
const SHARES: [f64; 6] = [0.0, 0.25, 0.5, 0.75, 0.9, 0.99];

pub(super) fn distributions(report: &Report) -> Option<Markup> {
    let known = |kind: &&Kind| report.targets.iter().any(|target| (kind.of)(target).is_some());
    let known: Vec<_> = KINDS.iter().filter(known).collect();
    if known.is_empty() {
        return None;
    }
    let (small, large): (Vec<&Kind>, Vec<_>) = known.into_iter().partition(|kind| kind.is_small);
    Some(html! {
        p.remark {
            "How many of the answered requests took at most so long. Marked are P50, P90 and P99, with their \
             95 % intervals."
        }
        @for kind in large {
            div.beside { @if let Some(plot) = plot(report, kind) { (plot.draw()) } (quantiles(report, kind)) }
        }
        div.triple {
            @for kind in small {
                div.stacked { @if let Some(plot) = plot(report, kind) { (plot.draw()) } (quantiles(report, kind)) }
            }
        }
    })
}

fn plot(report: &Report, kind: &Kind) -> Option<Plot> {
    let found: Vec<_> = report
        .targets
        .iter()
        .enumerate()
        .filter_map(|(place, target)| {
            let latency = (kind.of)(target)?;
            (!latency.buckets.is_empty()).then_some((place, target, latency))
        })
        .collect();
    if found.is_empty() {
        return None;
    }
    let objectives = objectives(report, kind.objective);
    let values =
        found.iter().flat_map(|(_, _, latency)| latency.buckets.iter().map(|bucket| bucket.ms));
    let scale = Scale::log(values.chain(objectives.iter().map(|(_, ms)| *ms)));
    let times = Axis { scale, unit: Unit::Milliseconds };
    let share = Axis { scale: Scale::linear(0.0, 1.0), unit: Unit::Share };
    let mut plot = Plot::new(format!("cdf-{}", kind.id), kind.title, times, share)
        .reading(Reading::Step)
        .y_ticks(&SHARES)
        .class(if kind.is_small { "low" } else { "" });
    plot.about = about(kind, &found);
    for (name, limit) in &objectives {
        plot.mark_x(*limit, format!("{name} {}", Unit::Milliseconds.tick(*limit)), "wanted");
    }
    for (place, target, latency) in found {
        plot.line(&Style::of(place, &target.name), &[cumulative(latency, &scale)]);
        for (quantile, share) in MARKED {
            let value = latency.of.value(quantile);
            if let Some(interval) = latency.intervals.get(quantile.name()) {
                plot.horizontal_interval(*interval, share, place);
            }
            plot.point(
                value,
                share,
                place,
                &format!("{} {}: {}", target.name, quantile.name(), ms(value)),
            );
        }
    }
    Some(plot)
}

fn about(kind: &Kind, found: &[(usize, &TargetReport, &LatencyReport)]) -> String {
    let each = found.iter().map(|(_, target, latency)| {
        let (p50, p99) = (ms(latency.of.p50), ms(latency.of.p99));
        format!("{}: P50 {p50}, P99 {p99}", target.name)
    });
    format!("{}, cumulative. {}", kind.title, each.collect::<Vec<_>>().join("; "))
}

/// Steps, of which those too small to be seen are left out.
fn cumulative(latency: &LatencyReport, scale: &Scale) -> Vec<(f64, f64)> {
    const SEEN: f64 = 1e-3;
    let all = latency.buckets.iter().map(|bucket| bucket.count).sum::<u64>().max(1);
    let mut points: Vec<(f64, f64)> = Vec::new();
    let (mut sum, mut drawn_at) = (0, f64::NEG_INFINITY);
    for (place, bucket) in latency.buckets.iter().enumerate() {
        let before = points.last().map_or(0.0, |(_, share)| *share);
        sum += bucket.count;
        let is_last = place + 1 == latency.buckets.len();
        if is_last || scale.at(bucket.ms) - drawn_at >= SEEN {
            drawn_at = scale.at(bucket.ms);
            points.extend([(bucket.ms, before), (bucket.ms, sum as f64 / all as f64)]);
        }
    }
    points.push((scale.high(), 1.0));
    points
}

fn quantiles(report: &Report, kind: &Kind) -> Markup {
    let found: Vec<_> = report
        .targets
        .iter()
        .enumerate()
        .filter_map(|(place, target)| Some((place, target, (kind.of)(target)?)))
        .collect();
    let table = html! {
        table.numbers.quantiles {
            // The plot has the title, where there is one.
            @if found.iter().all(|(_, _, latency)| latency.buckets.is_empty()) { caption { (kind.title) } }
            thead {
                tr {
                    th scope="col" { "" }
                    @for (place, target, _) in &found { th scope="col" { (name_of(*place, target)) } }
                }
            }
            tbody {
                @for quantile in Quantile::ALL {
                    tr {
                        th scope="row" { (quantile_name(quantile)) }
                        @for (place, _, latency) in &found {
                            td class=(colour(Some(*place))) {
                                (ms(latency.of.value(quantile)))
                                @if let Some(interval) = latency.intervals.get(quantile.name()) {
                                    small { (range(Unit::Milliseconds, *interval)) }
                                }
                            }
                        }
                    }
                }
                tr {
                    th scope="row" { "of" }
                    @for (_, _, latency) in &found { td { (count(latency.of.count)) } }
                }
                @for (name, limit) in objectives(report, kind.objective) {
                    tr {
                        th scope="row" {
                            "≤ " (Unit::Milliseconds.tick(limit))
                            @if name != "objective" { small { bdi { (name) } } }
                        }
                        @for (_, _, latency) in &found { td { (within(latency, limit)) } }
                    }
                }
            }
        }
    };
    scrolled(kind.title, &table)
}

fn within(latency: &LatencyReport, limit: f64) -> String {
    let all: u64 = latency.buckets.iter().map(|bucket| bucket.count).sum();
    let within: u64 =
        latency.buckets.iter().filter(|bucket| bucket.ms <= limit).map(|bucket| bucket.count).sum();
    if all == 0 { "–".to_owned() } else { percent(within as f64 / all as f64) }
}
