//! Whether the load test itself was up to it, and how to repeat it.

use maud::{Markup, html};

use crate::{
    measure::Distribution,
    report::{
        Report,
        html::show::{command, count, date, ms, percent, seconds},
    },
};

pub(super) fn client(report: &Report) -> Markup {
    let client = &report.client;
    let workload = &report.workload;
    html! {
        dl.facts {
            (fact("Sent late by", &distribution(client.late_ms.as_ref())))
            (fact("Heard late by", &distribution(client.lag_ms.as_ref())))
            (fact("Busiest of its threads", &html! { (percent(client.cpu)) " of the time, of " (client.threads) }))
            (fact("On their way at once", &html! { "at most " (count(client.most_in_flight as u64)) }))
            (fact("Cut off", &html! { (count(client.unfinished)) }))
            @if let Some(why) = &client.saturated { (fact("Saturated", &html! { span.missed { (why) } })) }
            (fact("Arrivals", &arrivals(report)))
            (fact("Counted", &html! { "from " (seconds(workload.from_s)) " to " (seconds(workload.to_s)) }))
            @for target in report.targets.iter().filter(|target| target.outside > 0) {
                (fact("Due outside of that", &html! { (count(target.outside)) " of " bdi { (target.name) } }))
            }
            (fact("Seed", &html! { (workload.seed) }))
            (fact("Began", &html! { (date(report.began_at)) }))
            @if !report.command.is_empty() {
                (fact("Again", &again(&command(&report.command))))
            }
        }
    }
}

fn again(command: &str) -> Markup {
    html! { pre.command data-copy=(command) { code { (command) } } }
}

fn fact(name: &str, value: &Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

fn distribution(found: Option<&Distribution>) -> Markup {
    match found {
        Some(found) => {
            html! { "P50 " (ms(found.p50)) ", P99 " (ms(found.p99)) ", at most " (ms(found.max)) }
        }
        None => html! { "nothing was measured" },
    }
}

fn arrivals(report: &Report) -> Markup {
    match &report.arrivals {
        Some(arrivals) if arrivals.passes() => html! { span.ok { "as claimed" } ": " (arrivals) },
        Some(arrivals) => html! { span.missed { (arrivals) } },
        None => html! { "not to be judged: users wait for each other" },
    }
}
