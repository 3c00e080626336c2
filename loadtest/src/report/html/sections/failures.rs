//! Classes, requests that were not answered, lengths that were off, and faults that were made.

use maud::{Markup, html};

use super::{name_of, plural, scrolled};
use crate::report::{
    FaultReport, LatencyReport, Report, TargetReport,
    html::show::{count, figures, ms, percent, seconds},
};

pub(super) fn classes(report: &Report) -> Option<Markup> {
    let has_any = report.targets.iter().any(|target| !target.classes.is_empty());
    let p99 = |latency: &Option<LatencyReport>| {
        latency.as_ref().map_or_else(|| "–".to_owned(), |found| ms(found.of.p99))
    };
    let p50 = |latency: &Option<LatencyReport>| {
        latency.as_ref().map_or_else(|| "–".to_owned(), |found| ms(found.of.p50))
    };
    let table = html! {
        table.numbers {
            thead {
                tr {
                    th scope="col" { "Class" } th.left scope="col" { "Target" }
                    @for title in [
                        "Offered", "Answered", "In time", "Goodput", "TTFT P50", "TTFT P99", "TPOT P50", "TPOT P99",
                    ] { th scope="col" { (title) } }
                }
            }
            @for name in class_names(report) {
                tbody {
                    @for (place, target) in report.targets.iter().enumerate() {
                        @for class in target.classes.iter().filter(|class| class.name == name) {
                            tr {
                                th scope="row" { bdi { (name) } }
                                td.left { (name_of(place, target)) }
                                td { (count(class.offered)) }
                                td { (count(class.completed)) }
                                td { b { (percent(class.attainment)) } }
                                td { (figures(class.goodput)) }
                                td { (p50(&class.latencies.ttft)) } td { (p99(&class.latencies.ttft)) }
                                td { (p50(&class.latencies.tpot)) } td { (p99(&class.latencies.tpot)) }
                            }
                        }
                    }
                }
            }
        }
    };
    has_any.then(|| scrolled("Classes", &table))
}

fn class_names(report: &Report) -> Vec<&str> {
    let mut names: Vec<&str> = Vec::new();
    for class in report.targets.iter().flat_map(|target| &target.classes) {
        if !names.contains(&class.name.as_str()) {
            names.push(&class.name);
        }
    }
    names
}

pub(super) fn failures(report: &Report) -> Option<Markup> {
    let rows: Vec<_> = report
        .targets
        .iter()
        .enumerate()
        .flat_map(|(place, target)| {
            reasons(target)
                .into_iter()
                .map(move |(what, reason, times)| (place, target, what, reason, times))
        })
        .collect();
    let table = html! {
        table.numbers {
            thead {
                tr {
                    th scope="col" { "Target" } th.left scope="col" { "" } th.left scope="col" { "Reason" }
                    th scope="col" { "Requests" } th scope="col" { "Of all" }
                    th.left scope="col" { "Said the first time" }
                }
            }
            tbody {
                @for (place, target, what, reason, times) in &rows {
                    tr {
                        th scope="row" { (name_of(*place, target)) }
                        td.left.what { (what) }
                        td.left.reason { code { (reason) } }
                        td { b { (count(*times)) } }
                        td { (percent(*times as f64 / (target.offered as f64).max(1.0))) }
                        td.left.said { (target.examples.get(*reason).map_or("", String::as_str)) }
                    }
                }
            }
        }
    };
    (!rows.is_empty()).then(|| scrolled("Requests that were not answered", &table))
}

/// Most often first.
fn reasons(target: &TargetReport) -> Vec<(&'static str, &str, u64)> {
    let refused = target.refused.iter().map(|(reason, times)| ("refused", reason.as_str(), *times));
    let failed = target.failed.iter().map(|(reason, times)| ("failed", reason.as_str(), *times));
    let not_sent =
        (target.not_sent > 0).then_some(("not sent", "too many on their way", target.not_sent));
    let mut all: Vec<_> = refused.chain(failed).chain(not_sent).collect();
    all.sort_by_key(|(_, _, times)| std::cmp::Reverse(*times));
    all
}

pub(super) fn lengths(report: &Report) -> Option<Markup> {
    let remarks: Vec<_> = report
        .targets
        .iter()
        .enumerate()
        .map(|(place, target)| (place, target, remarks(target)))
        .collect();
    let has_any = remarks.iter().any(|(_, _, remarks)| !remarks.is_empty());
    has_any.then(|| {
        html! {
            ul.remarks {
                @for (place, target, remarks) in &remarks {
                    @for remark in remarks { li { (name_of(*place, target)) " " (remark) } }
                }
            }
        }
    })
}

fn remarks(target: &TargetReport) -> Vec<String> {
    let lengths = &target.lengths;
    let mut remarks = Vec::new();
    if lengths.prompts > 0 {
        let of = plural(lengths.prompts, "prompt");
        remarks.push(match lengths.prompts.saturating_sub(lengths.exact) {
            0 => format!("All of {of} had exactly as many tokens as they were to have."),
            off => format!(
                "{} of {of} had another number of tokens than they were to have; the worst was {} off.",
                count(off),
                lengths.worst
            ),
        });
    }
    if lengths.short > 0 {
        let of = plural(target.completed, "answer");
        remarks.push(format!(
            "{} of {of} ended before they had as many tokens as were asked for.",
            count(lengths.short)
        ));
    }
    remarks
}

pub(super) fn faults(report: &Report) -> Option<Markup> {
    let chaos = report.chaos.as_ref()?;
    Some(html! {
        @if !chaos.faults.is_empty() { (scrolled("Faults", &commands(&chaos.faults))) }
        @if !chaos.tokens.is_empty() {
            h3 { "Tokens, beside a run without faults" }
            (scrolled("Tokens", &tokens(report)))
        }
    })
}

fn commands(faults: &[FaultReport]) -> Markup {
    html! {
        table.numbers {
            thead {
                tr {
                    th scope="col" { "" } th scope="col" { "At" } th.left scope="col" { "Command" }
                    th.left scope="col" { "Exit status" } th.left scope="col" { "Said" }
                }
            }
            tbody {
                @for (place, fault) in faults.iter().enumerate() {
                    tr {
                        th scope="row" { span.number { (place + 1) } }
                        td { (seconds(fault.at_s)) }
                        td.left.reason { code { (fault.command) } }
                        td.left {
                            @match fault.status {
                                Some(0) => span.ok { "0" },
                                Some(status) => span.missed { (status) },
                                None => span.missed { "not run" },
                            }
                        }
                        td.left.said { (fault.said) }
                    }
                }
            }
        }
    }
}

fn tokens(report: &Report) -> Markup {
    let verdicts: Vec<_> = report.chaos.iter().flat_map(|chaos| &chaos.tokens).collect();
    let place = |name: &str| report.targets.iter().position(|target| target.name == name);
    html! {
        table.numbers {
            thead {
                tr {
                    @for title in ["Target", "Compared", "Exact", "Lost", "Doubled", "Wrong"] {
                        th scope="col" { (title) }
                    }
                }
            }
            @for (name, verdict) in verdicts {
                tbody {
                    tr {
                        th scope="row" {
                            @match place(name) {
                                Some(place) => (name_of(place, &report.targets[place])),
                                None => bdi { (name) },
                            }
                        }
                        td { (count(verdict.compared)) }
                        td class=[(verdict.exact == verdict.compared).then_some("ok")] { (count(verdict.exact)) }
                        @for off in [verdict.lost, verdict.doubled, verdict.wrong] {
                            td class=[(off > 0).then_some("missed")] { (count(off)) }
                        }
                    }
                    @for example in &verdict.examples { tr.example { td.left colspan="6" { code { (example) } } } }
                }
            }
        }
    }
}
