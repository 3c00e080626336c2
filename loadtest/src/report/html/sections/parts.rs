//! Where the time to the first token, and from there to the second, went.

use maud::{Markup, html};

use super::{name_of, scrolled};
use crate::report::{
    PartReport, PartsReport, Report, TargetReport,
    html::{
        plot::{colour, share},
        show::{Unit, ms},
    },
};

/// In the order of their colours and hatches; others take the next ones.
const KNOWN: [&str; 9] = [
    "sent late",
    "network",
    "router queue",
    "prefill queue",
    "prefill",
    "between",
    "exposed transfer",
    "decode admission",
    "first decode step",
];

struct Half {
    id: &'static str,
    title: &'static str,
    of: fn(&PartsReport) -> &[PartReport],
}

const HALVES: [Half; 2] = [
    Half { id: "ttft", title: "To the first token", of: |parts| &parts.ttft },
    Half { id: "second", title: "From there to the second token", of: |parts| &parts.second_token },
];

/// A target that tells, with its place in the report.
type Telling<'a> = (usize, &'a TargetReport, &'a [PartReport]);

pub(super) fn parts(report: &Report) -> Option<Markup> {
    let halves = HALVES.iter().filter_map(|half| Some((half, telling(report, half)?)));
    let halves: Vec<_> = halves.collect();
    if halves.is_empty() {
        return None;
    }
    Some(html! {
        p.remark {
            "As the servers tell it, of requests that were answered. Bars are means, which add up; a part's P99 is \
             its own."
        }
        @for (half, targets) in &halves {
            h3 { (half.title) }
            (bars(half, targets))
            (scrolled(half.title, &table(targets)))
        }
    })
}

fn telling<'a>(report: &'a Report, half: &Half) -> Option<Vec<Telling<'a>>> {
    let targets = report.targets.iter().enumerate().filter_map(|(place, target)| {
        let parts = (half.of)(target.parts.as_ref()?);
        (!parts.is_empty()).then_some((place, target, parts))
    });
    let targets: Vec<_> = targets.collect();
    (!targets.is_empty()).then_some(targets)
}

/// On one scale.
fn bars(half: &Half, targets: &[Telling<'_>]) -> Markup {
    let total = |parts: &[PartReport]| parts.iter().map(|part| part.of.mean).sum::<f64>();
    let most = targets.iter().map(|(_, _, parts)| total(parts)).fold(0.0, f64::max);
    html! {
        figure.bars id=(format!("parts-{}", half.id)) {
            (legend(names(targets)))
            @for (place, target, parts) in targets {
                div.bar {
                    span.of { (name_of(*place, target)) " " b { (ms(total(parts))) } }
                    (bar(parts.iter().map(|part| (part.name.as_str(), part.of.mean)), most, &target.name))
                }
            }
        }
    }
}

/// Parts one after the other; `most` is as long as there is room.
pub(super) fn bar<'a>(
    parts: impl IntoIterator<Item = (&'a str, f64)>,
    most: f64,
    whose: &str,
) -> Markup {
    let mut from = 0.0;
    let parts = parts.into_iter().enumerate().map(|(place, (name, took))| {
        let width = if most > 0.0 && took > 0.0 { took / most } else { 0.0 };
        from += width;
        (class(name, place), from - width, width, format!("{name}: {}", ms(took)))
    });
    let parts: Vec<_> = parts.filter(|(_, _, width, _)| *width > 0.0).collect();
    let about: Vec<&str> = parts.iter().map(|(_, _, _, about)| about.as_str()).collect();
    html! {
        svg.stack width="100%" height="18" role="img" aria-label=(format!("{whose}: {}", about.join(", "))) {
            @for (class, from, width, about) in &parts {
                rect.part.data.(class) x=(share(*from)) width=(share(*width)) y="0" height="100%" {
                    title { (about) }
                }
            }
        }
    }
}

/// All that any target has, in order.
fn names<'a>(targets: &[Telling<'a>]) -> Vec<&'a str> {
    let mut names: Vec<&str> = Vec::new();
    for part in targets.iter().flat_map(|(_, _, parts)| *parts) {
        if !names.contains(&part.name.as_str()) {
            names.push(&part.name);
        }
    }
    names
}

fn table(targets: &[Telling<'_>]) -> Markup {
    let all = targets.iter().flat_map(|(_, _, parts)| *parts);
    let most = all.map(|part| part.of.p99.max(part.of.mean)).fold(0.0, f64::max);
    let of =
        |parts: &'_ [PartReport], name: &str| parts.iter().find(|part| part.name == name).cloned();
    html! {
        table.numbers.parts {
            thead {
                tr {
                    th scope="col" { "Part" } th scope="col" { "" } th scope="col" { "Mean" } th scope="col" { "P50" }
                    th scope="col" { "P99" } th.wide-cell.left scope="col" { "Mean ▮ and P99 |" }
                }
            }
            @for (row, name) in names(targets).into_iter().enumerate() {
                tbody {
                    @for (line, (place, target, parts)) in targets.iter().enumerate() {
                        tr {
                            @if line == 0 { th scope="rowgroup" rowspan=(targets.len()) { (swatch(name, row)) (name) } }
                            td.left { (name_of(*place, target)) }
                            @match of(parts, name) {
                                Some(part) => {
                                    td { (ms(part.of.mean)) } td { (ms(part.of.p50)) } td { (ms(part.of.p99)) }
                                    td.wide-cell { (spread(&part, most, *place)) }
                                }
                                None => { td { "–" } td { "–" } td { "–" } td {} }
                            }
                        }
                    }
                }
            }
        }
    }
}

/// Mean and P99 on one line.
fn spread(part: &PartReport, most: f64, target: usize) -> Markup {
    let at = |value: f64| share(if most > 0.0 { (value / most).clamp(0.0, 1.0) } else { 0.0 });
    let (mean, p99) = (at(part.of.mean), at(part.of.p99));
    html! {
        svg.spread.(colour(Some(target))) width="100%" height="14" aria-hidden="true" {
            rect x="0" y="3" width=(mean) height="8" {}
            line x1="0" x2=(p99) y1="7" y2="7" {}
            line x1=(p99) x2=(p99) y1="1" y2="13" {}
        }
    }
}

fn swatch(name: &str, place: usize) -> Markup {
    html! {
        svg.swatch width="14" height="14" aria-hidden="true" {
            rect.part.(class(name, place)) width="14" height="14" rx="3" {}
        }
    }
}

fn class(name: &str, place: usize) -> String {
    let known = KNOWN.iter().position(|known| *known == name);
    format!("p{}", known.unwrap_or(place % KNOWN.len()))
}

/// What tells parts apart without colours.
pub(in super::super) fn hatches() -> Markup {
    const LINES: [&str; KNOWN.len()] = [
        "",
        "M-2 2L2-2M0 8L8 0M6 10L10 6",
        "M2 1V3M6 5V7",
        "M-2 6L2 10M0 0L8 8M6-2L10 2",
        "",
        "M0 2H8M0 6H8",
        "M2 0V8M6 0V8",
        "M0 8L8 0M0 0L8 8",
        "",
    ];
    html! {
        @for (place, d) in LINES.iter().enumerate() {
            pattern id=(format!("hatch{place}")) width="8" height="8" patternUnits="userSpaceOnUse" {
                rect class=(format!("ground p{place}")) width="8" height="8" {}
                @if !d.is_empty() { path.hatch d=(d) {} }
            }
        }
    }
}

pub(super) fn legend<'a>(names: impl IntoIterator<Item = &'a str>) -> Markup {
    html! {
        ul.legend {
            @for (place, name) in names.into_iter().enumerate() { li { (swatch(name, place)) (name) } }
        }
    }
}

/// How long a bar of all the room is.
pub(super) fn scale_of(most: f64) -> String {
    format!("a full bar is {}", Unit::Milliseconds.show(most))
}
