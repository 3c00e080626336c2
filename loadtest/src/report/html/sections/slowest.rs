//! The requests that waited longest.

use maud::{Markup, html};

use super::{
    name_of, optional_ms,
    parts::{bar, legend, scale_of},
    scrolled,
};
use crate::report::{
    Report, SlowReport, TargetReport,
    html::show::{count, ms, seconds},
};

pub(super) fn slowest(report: &Report) -> Option<Markup> {
    let with: Vec<_> = report
        .targets
        .iter()
        .enumerate()
        .filter(|(_, target)| !target.slowest.is_empty())
        .collect();
    if with.is_empty() {
        return None;
    }
    let all = || with.iter().flat_map(|(_, target)| &target.slowest);
    let most = all().map(|slow| slow.ttft_ms).fold(0.0, f64::max);
    let has_parts = all().any(|slow| !slow.parts.is_empty());
    let names = all().map(|slow| &slow.parts).max_by_key(|parts| parts.len());
    Some(html! {
        @if has_parts {
            p.remark {
                code { "baton explain ID" } " says why a request ran where it did. "
                "Bars are parts of the time to its first token; " (scale_of(most)) "."
            }
            (legend(names.into_iter().flatten().map(|(name, _)| name.as_str())))
        }
        @for (place, target) in with {
            h3 { (name_of(place, target)) }
            (scrolled("Slowest requests", &table(target, most, has_parts)))
        }
    })
}

fn table(target: &TargetReport, most: f64, has_parts: bool) -> Markup {
    html! {
        table.numbers.slow {
            thead {
                tr {
                    th scope="col" { "Request" }
                    @for title in ["Due", "TTFT", "TPOT", "End to end", "Prompt", "Output"] {
                        th scope="col" { (title) }
                    }
                    @if has_parts { th.wide-cell.left scope="col" { "Parts of TTFT" } }
                }
            }
            tbody {
                @for slow in &target.slowest {
                    tr {
                        th scope="row" { (id(slow)) }
                        td { (seconds(slow.due_s)) }
                        td { b { (ms(slow.ttft_ms)) } }
                        td { (optional_ms(slow.tpot_ms)) }
                        td { (optional_ms(slow.e2e_ms)) }
                        td { (slow.prompt_tokens.map_or_else(|| "–".to_owned(), |tokens| count(tokens.into()))) }
                        td { (count(slow.output_tokens.into())) }
                        @if has_parts {
                            td.wide-cell { (bar(parts(slow), most, &ms(slow.ttft_ms))) }
                        }
                    }
                }
            }
        }
    }
}

fn parts(slow: &SlowReport) -> impl Iterator<Item = (&str, f64)> {
    slow.parts.iter().map(|(name, took)| (name.as_str(), *took))
}

fn id(slow: &SlowReport) -> Markup {
    match &slow.request_id {
        Some(id) => html! { code.id data-copy=(format!("baton explain {id}")) { (id) } },
        None => html! { "request " (slow.number) "." (slow.turn) },
    }
}
