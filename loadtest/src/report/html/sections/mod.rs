//! What the page says, in its order.

mod capacity;
mod client;
mod distributions;
mod failures;
mod headline;
mod parts;
mod slowest;
mod timeline;
mod warnings;

use maud::{Markup, html};

pub(super) use self::{
    headline::{headline, title},
    parts::hatches,
};
use super::{
    plot::{colour, key},
    show,
};
use crate::{
    report::{ClassObjectives, Report, TargetReport},
    slo::Quantile,
};

/// One that there is something to say in.
pub(super) struct Section {
    pub(super) id: &'static str,
    pub(super) title: &'static str,
    /// On paper.
    pub(super) begins_page: bool,
    pub(super) body: Markup,
}

/// After the headline.
pub(super) fn all(report: &Report) -> Vec<Section> {
    let sections = [
        ("capacity", "Capacity", true, capacity::capacity(report)),
        ("latencies", "Latencies", true, distributions::distributions(report)),
        ("timeline", "Over the run", true, timeline::timeline(report)),
        ("parts", "Where the time went", true, parts::parts(report)),
        ("slowest", "Slowest to their first token", true, slowest::slowest(report)),
        ("classes", "Classes", false, failures::classes(report)),
        ("failures", "Not answered", false, failures::failures(report)),
        ("lengths", "Lengths", false, failures::lengths(report)),
        ("faults", "Faults", false, failures::faults(report)),
        ("client", "The load test itself", false, Some(client::client(report))),
    ];
    let section = |(id, title, begins_page, body): (_, _, _, Option<Markup>)| {
        Some(Section { id, title, begins_page, body: body? })
    };
    sections.into_iter().filter_map(section).collect()
}

/// A target's name with its mark.
fn name_of(place: usize, target: &TargetReport) -> Markup {
    html! { span.target.(colour(Some(place))) { (key(Some(place), "line", true)) bdi { (target.name) } } }
}

/// A table that is scrolled, by keyboard too, where it is wider than the page.
fn scrolled(label: &str, table: &Markup) -> Markup {
    html! { div.scroll role="region" aria-label=(label) tabindex="0" { (table) } }
}

/// Objectives of one latency: what each is called, and its milliseconds. Equal ones are one.
fn objectives(report: &Report, of: fn(&ClassObjectives) -> Option<f64>) -> Vec<(String, f64)> {
    let classes = &report.workload.classes;
    let mut found: Vec<(String, f64)> = Vec::new();
    for class in classes {
        let Some(ms) = of(class) else { continue };
        let name = class.name.as_deref().filter(|_| classes.len() > 1);
        match found.iter_mut().find(|(_, known)| *known == ms) {
            Some((names, _)) if name.is_some_and(|name| !name.is_empty()) => {
                names.push_str(", ");
                names.push_str(name.unwrap_or_default());
            }
            Some(_) => {}
            None => found.push((name.unwrap_or("objective").to_owned(), ms)),
        }
    }
    found
}

/// Whether anything was to be in time.
fn has_objectives(report: &Report) -> bool {
    let mut classes = report.workload.classes.iter();
    classes.any(|class| class.ttft_ms.or(class.tpot_ms).or(class.e2e_ms).is_some())
}

/// `1 request`, `2 requests`.
fn plural(count: u64, what: &str) -> String {
    let s = if count == 1 { "" } else { "s" };
    format!("{} {what}{s}", show::count(count))
}

fn quantile_name(quantile: Quantile) -> &'static str {
    match quantile {
        Quantile::Mean => "mean",
        Quantile::P50 => "P50",
        Quantile::P90 => "P90",
        Quantile::P95 => "P95",
        Quantile::P99 => "P99",
        Quantile::Max => "max",
    }
}

/// What may not have been measured.
fn optional_ms(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), show::ms)
}
