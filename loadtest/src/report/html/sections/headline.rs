//! What was measured, and how it went, at a glance.

use maud::{Markup, html};

use super::{
    has_objectives, name_of, optional_ms, plural, quantile_name, scrolled,
    warnings::{alarms, notes},
};
use crate::{
    report::{
        LatencyReport, Report, TargetReport,
        html::{
            plot::{colour, share},
            show::{Unit, count, date, figures, percent, range},
        },
    },
    slo::Quantile,
};

pub(in super::super) fn title(report: &Report) -> String {
    let names: Vec<_> = report.targets.iter().map(|target| target.name.as_str()).collect();
    match names.as_slice() {
        [] => "Load test".to_owned(),
        [name] => format!("Load test of {name}"),
        [names @ .., last] => format!("Load test of {} and {last}", names.join(", ")),
    }
}

pub(in super::super) fn headline(report: &Report) -> Markup {
    let (alarms, notes) = (alarms(report), notes(report));
    html! {
        header.top {
            p.when { time { (date(report.began_at)) } }
            h1 { bdi { (title(report)) } }
            p.workload { (workload(report)) }
            (objectives(report))
            @for text in &alarms { p.warning.alarm { strong { "Attention. " } (text) } }
            @if let [text] = notes.as_slice() {
                p.warning.caution { strong { "Note. " } (text) }
            } @else if !notes.is_empty() {
                div.warning.caution { strong { "Notes" } ul { @for text in &notes { li { (text) } } } }
            }
            div.cards {
                @for (place, target) in report.targets.iter().enumerate() { (card(report, place, target)) }
            }
            (checks(report))
        }
    }
}

fn workload(report: &Report) -> Markup {
    let workload = &report.workload;
    let more = [
        ("shared prefixes", &workload.shared),
        ("turns", &workload.turns),
        ("from", &workload.source),
    ];
    let seconds = workload.to_s - workload.from_s;
    html! {
        span { code { (workload.arrivals) } }
        span { "prompts of " b { (workload.input) } " tokens" }
        span { "answers of " b { (workload.output) } " tokens" }
        @for (name, value) in more {
            @if let Some(value) = value { span { (name) " " b { (value) } } }
        }
        span { (workload.api) " API" }
        span { "counted for " b { (Unit::Seconds.show(seconds)) } }
    }
}

/// In a row each, if there are classes.
fn objectives(report: &Report) -> Markup {
    let classes = report
        .workload
        .classes
        .iter()
        .filter(|class| class.ttft_ms.or(class.tpot_ms).or(class.e2e_ms).is_some());
    html! {
        @for class in classes {
            p.workload.objectives {
                span {
                    @match &class.name {
                        Some(name) => { b { bdi { (name) } } ", " (percent(class.share)) " of requests, in time if" }
                        None => "A request is in time if",
                    }
                }
                @for (what, limit) in [("TTFT", class.ttft_ms), ("TPOT", class.tpot_ms), ("end to end", class.e2e_ms)] {
                    @if let Some(limit) = limit { span { (what) " ≤ " b { (Unit::Milliseconds.tick(limit)) } } }
                }
            }
        }
    }
}

fn card(report: &Report, place: usize, target: &TargetReport) -> Markup {
    let first = report.targets.first().filter(|_| place > 0);
    html! {
        article.card.(colour(Some(place))) {
            h2 { (name_of(place, target)) }
            p.model { (target.protocol) @if !target.model.is_empty() { " · " bdi { (target.model) } } }
            (verdict(report, target))
            @if let Some(capacity) = capacity(report, target) { p.capacity-line { (capacity) } }
            dl.figures {
                @if has_objectives(report) {
                    div { dt { "Goodput" } dd { (figures(target.goodput.value)) small { " requests/s in time" } } }
                }
                div { dt { "Offered" } dd { (figures(target.offered_rate)) small { " requests/s" } } }
                (latency("TTFT", target, first, |target| target.latencies.ttft.as_ref()))
                (latency("TPOT", target, first, |target| target.latencies.tpot.as_ref()))
                div { dt { "Output" } dd { (figures(target.output_tokens_per_s)) small { " tokens/s" } } }
                @if target.prompt_tokens > 0 {
                    div {
                        dt { "From cache" }
                        dd {
                            (percent(target.cached_tokens as f64 / target.prompt_tokens as f64))
                            small { " of prompt tokens" }
                        }
                    }
                }
            }
            (ends(target))
            @if let Some(first) = first { p.within { "× is beside " bdi { (first.name) } } }
        }
    }
}

/// Of all that were offered.
fn verdict(report: &Report, target: &TargetReport) -> Markup {
    if !has_objectives(report) {
        let answered = target.completed as f64 / (target.offered as f64).max(1.0);
        return html! { p.verdict { b { (percent(answered)) } " answered" } };
    }
    let attainment = &target.attainment;
    let wanted =
        report.capacity.iter().find(|found| found.target == target.name).map(|found| found.wanted);
    let (low, high) = attainment.interval.unwrap_or((attainment.value, attainment.value));
    html! {
        p.verdict { b { (percent(attainment.value)) } " in time" }
        svg.gauge width="100%" height="14" role="img"
            aria-label=(format!("{} in time", percent(attainment.value)))
        {
            rect.back x="0" y="4" width="100%" height="6" rx="3" {}
            rect.value x="0" y="4" width=(share(attainment.value)) height="6" rx="3" {}
            rect.within x=(share(low)) y="0" width=(share(high - low)) height="14" rx="3" {}
            @if let Some(wanted) = wanted {
                line.limit x1=(share(wanted)) x2=(share(wanted)) y1="0" y2="14" {
                    title { "wanted: " (percent(wanted)) }
                }
            }
        }
        p.within {
            @match attainment.interval {
                Some(interval) => { "95 % interval: " (range(Unit::Share, interval)) }
                None => "too few requests for an interval",
            }
        }
        p.within {
            (percent(target.ttft_attainment)) " began, " (percent(target.tpot_attainment)) " went on, "
            (percent(target.e2e_attainment)) " ended in time"
        }
    }
}

/// What it can take, if that was looked for.
fn capacity(report: &Report, target: &TargetReport) -> Option<Markup> {
    let found = report.capacity.iter().find(|found| found.target == target.name)?;
    let between = match (found.low, found.high) {
        (Some(low), Some(high)) => range(Unit::Number, (low, high)),
        (Some(low), None) => format!("at least {}", figures(low)),
        (None, Some(high)) => format!("less than {}", figures(high)),
        (None, None) => return None,
    };
    let wanted = Unit::Share.tick(found.wanted);
    Some(html! { "Capacity " b { (between) } " requests/s, with " (wanted) " in time" })
}

fn latency(
    name: &str,
    target: &TargetReport,
    first: Option<&TargetReport>,
    of: fn(&TargetReport) -> Option<&LatencyReport>,
) -> Markup {
    let value = |target, quantile| of(target).map(|found| found.of.value(quantile));
    let beside = |quantile| {
        let ratio = value(target, quantile)? / value(first?, quantile)?;
        ratio.is_finite().then(|| format!("{ratio:.2} ×"))
    };
    let quantiles = [Quantile::P50, Quantile::P99];
    html! {
        @for quantile in quantiles {
            div {
                dt { (name) " " (quantile_name(quantile)) }
                dd {
                    (optional_ms(value(target, quantile)))
                    @if let Some(ratio) = beside(quantile) { " " small { (ratio) } }
                }
            }
        }
    }
}

/// How requests ended.
fn ends(target: &TargetReport) -> Markup {
    let refused: u64 = target.refused.values().sum();
    let failed: u64 = target.failed.values().sum();
    let rest = [("refused", refused), ("failed", failed), ("not sent", target.not_sent)];
    html! {
        p.ends {
            span { b { (count(target.completed)) } " of " b { (count(target.offered)) } " answered" }
            @for (what, times) in rest {
                span class=[(times > 0).then_some("bad")] { b { (count(times)) } " " (what) }
            }
            @if target.resumed > 0 { span { b { (count(target.resumed)) } " went on elsewhere" } }
        }
    }
}

fn checks(report: &Report) -> Markup {
    let checks = &report.checks;
    if checks.is_empty() {
        return html! {};
    }
    let missed = checks.iter().filter(|check| !check.passed).count();
    let table = html! {
        table {
            thead { tr { th scope="col" { "" } th scope="col" { "Wanted" } th scope="col" { "Found" } } }
            tbody {
                @for check in checks {
                    tr {
                        td { @if check.passed { span.ok { "✓ passed" } } @else { span.missed { "✗ missed" } } }
                        th scope="row" { code { (check.wanted) } }
                        td { (check.found) }
                    }
                }
            }
        }
    };
    html! {
        section.checks aria-label="Checks" {
            h2 {
                @if missed == 0 {
                    span.ok { "✓ " (plural(checks.len() as u64, "check")) " passed" }
                } @else {
                    span.missed {
                        "✗ " (count(missed as u64)) " of " (plural(checks.len() as u64, "check")) " missed"
                    }
                }
            }
            (scrolled("Checks", &table))
        }
    }
}
