//! How much each target can take.

use maud::{Markup, html};

use super::{name_of, optional_ms, scrolled};
use crate::report::{
    CapacityReport, RateReport, Report, TargetReport,
    html::{
        plot::{Axis, Plot, Reading, Scale, Style},
        show::{Unit, figures, percent, range},
    },
};

pub(super) fn capacity(report: &Report) -> Option<Markup> {
    let rates = Axis { scale: rates(report)?, unit: Unit::Number };
    let goodputs = report.capacity.iter().flat_map(|found| &found.curve).map(|point| point.goodput);
    let goodput = Axis { scale: Scale::from_zero(goodputs), unit: Unit::Number };
    Some(html! {
        @for (place, target) in report.targets.iter().enumerate() {
            @for found in report.capacity.iter().filter(|found| found.target == target.name) {
                (of_target(place, target, found, rates, goodput))
            }
        }
    })
}

/// The same for all targets, so that they can be compared.
fn rates(report: &Report) -> Option<Scale> {
    /// By so much the rates differ before their logarithms are drawn.
    const FAR: f64 = 20.0;
    let all: Vec<f64> =
        report.capacity.iter().flat_map(|found| &found.curve).map(|at| at.rate).collect();
    let (least, most) = all
        .iter()
        .fold((f64::INFINITY, 0.0_f64), |(least, most), rate| (least.min(*rate), most.max(*rate)));
    if all.is_empty() {
        return None;
    }
    Some(if most > FAR * least { Scale::log(all) } else { Scale::from_zero(all) })
}

fn of_target(
    place: usize,
    target: &TargetReport,
    found: &CapacityReport,
    rates: Axis,
    goodput: Axis,
) -> Markup {
    html! {
        h3 { (name_of(place, target)) }
        @if !found.statement.is_empty() { p.statement { (found.statement) } }
        @if let Some(doubt) = found.doubt() { p.statement { (doubt) } }
        div.pair {
            (attainment(place, target, found, rates).draw())
            (goodputs(place, target, found, rates, goodput).draw())
        }
        (scrolled("Rates that were tried", &table(found)))
    }
}

fn attainment(place: usize, target: &TargetReport, found: &CapacityReport, rates: Axis) -> Plot {
    let share = Axis { scale: Scale::linear(0.0, 1.0), unit: Unit::Share };
    let mut plot = Plot::new(format!("attainment-{place}"), "In time", rates, share)
        .reading(Reading::Nearest)
        .x_label("offered, requests/s");
    plot.about = format!(
        "{}: share of requests in time over the offered rate. {}",
        target.name, found.statement
    );
    bracket(&mut plot, found);
    plot.mark_y(found.wanted, &format!("wanted: {}", Unit::Share.tick(found.wanted)), "wanted");
    let points = found.curve.iter().map(|at| (at.rate, at.attainment.value)).collect();
    plot.line(&Style::of(place, "mean, with its 95 % interval"), &[points]);
    for at in &found.curve {
        for attained in at.attainments.iter().filter(|_| at.attainments.len() > 1) {
            plot.dot(at.rate, *attained, Some(place), 1.8);
        }
        if let Some(interval) = at.attainment.interval {
            plot.vertical_interval(at.rate, interval, place);
        }
        plot.point(at.rate, at.attainment.value, place, &title(at));
    }
    plot
}

fn title(at: &RateReport) -> String {
    let interval = at
        .attainment
        .interval
        .map_or_else(String::new, |found| format!(" ({})", range(Unit::Share, found)));
    format!("{} requests/s: {}{interval}", figures(at.rate), percent(at.attainment.value))
}

fn goodputs(
    place: usize,
    target: &TargetReport,
    found: &CapacityReport,
    rates: Axis,
    goodput: Axis,
) -> Plot {
    let mut plot =
        Plot::new(format!("goodput-{place}"), "Goodput, requests/s in time", rates, goodput)
            .x_label("offered, requests/s");
    plot.about =
        format!("{}: requests a second that were in time over the offered rate", target.name);
    bracket(&mut plot, found);
    let most = rates.scale.high().min(goodput.scale.high());
    let ideal = (0..=64)
        .map(|step| rates.scale.low() + (most - rates.scale.low()) * f64::from(step) / 64.0);
    plot.line(
        &Style::common("all in time").class("common ideal"),
        &[ideal.map(|rate| (rate, rate)).collect()],
    );
    let points = found.curve.iter().map(|at| (at.rate, at.goodput)).collect();
    plot.line(&Style::of(place, "goodput"), &[points]);
    for at in &found.curve {
        plot.point(
            at.rate,
            at.goodput,
            place,
            &format!("{} of {} requests/s", figures(at.goodput), figures(at.rate)),
        );
    }
    plot
}

/// Between what was enough and what was too much.
fn bracket(plot: &mut Plot, found: &CapacityReport) {
    let (Some(low), Some(high)) = (found.low, found.high) else { return };
    plot.band(low, high, "bracket");
    let text = format!("capacity: {}", range(Unit::Number, (low, high)));
    plot.label_x((low + high) / 2.0, text, "capacity");
}

fn table(found: &CapacityReport) -> Markup {
    let interval = |at: &RateReport| {
        at.attainment.interval.map_or_else(|| "–".to_owned(), |found| range(Unit::Share, found))
    };
    html! {
        table.numbers {
            thead {
                tr {
                    @for title in [
                        "Requests/s", "Runs", "In time", "95 % interval", "Goodput", "TTFT P50", "TTFT P99",
                        "TPOT P50", "TPOT P99", "Tokens/s",
                    ] { th scope="col" { (title) } }
                }
            }
            tbody {
                @for at in &found.curve {
                    tr class=[(at.attainment.value < found.wanted).then_some("too-much")] {
                        th scope="row" { (figures(at.rate)) }
                        td { (at.attainments.len()) }
                        td { (percent(at.attainment.value)) }
                        td { (interval(at)) }
                        td { (figures(at.goodput)) }
                        @for value in [at.ttft_p50_ms, at.ttft_p99_ms, at.tpot_p50_ms, at.tpot_p99_ms] {
                            td { (optional_ms(value)) }
                        }
                        td { (figures(at.output_tokens_per_s)) }
                    }
                }
            }
        }
    }
}
