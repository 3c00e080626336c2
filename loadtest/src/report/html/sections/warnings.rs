//! What whoever reads the figures must know first.

use super::plural;
use crate::report::{Report, html::show::count};

/// Why the figures are not what they seem.
pub(super) fn alarms(report: &Report) -> Vec<String> {
    let mut alarms = Vec::new();
    if report.interrupted {
        alarms.push(
            "It was stopped before its end: these are the requests that had ended by then."
                .to_owned(),
        );
    }
    if report.targets.iter().all(|target| target.completed == 0) {
        alarms.push("Nothing was answered, so that nothing is known of any latency.".to_owned());
    }
    if let Some(why) = &report.client.saturated {
        alarms.push(format!("The figures may be the client's own: {why}."));
    }
    if let Some(arrivals) = report.arrivals.as_ref().filter(|arrivals| !arrivals.passes()) {
        alarms.push(format!("Requests did not arrive as claimed: {arrivals}."));
    }
    for (target, verdict) in report.chaos.iter().flat_map(|chaos| &chaos.tokens) {
        let off = verdict.lost + verdict.doubled + verdict.wrong;
        if off > 0 {
            let of = plural(verdict.compared, "answer");
            alarms.push(format!(
                "{target}: {} of {of} lack tokens, have some twice, or differ.",
                count(off)
            ));
        }
    }
    alarms
}

/// What else is to be known.
pub(super) fn notes(report: &Report) -> Vec<String> {
    let mut notes = Vec::new();
    for target in &report.targets {
        let (name, lengths) = (&target.name, &target.lengths);
        if lengths.exact < lengths.prompts {
            let off = count(lengths.prompts - lengths.exact);
            let of = plural(lengths.prompts, "prompt");
            let worst = plural(lengths.worst.into(), "token");
            notes.push(format!(
                "{name}: {off} of {of} had other lengths than asked for, by up to {worst}."
            ));
        }
        if target.not_sent > 0 {
            let not_sent = plural(target.not_sent, "request");
            notes.push(format!("{name}: {not_sent} not sent, for too many were on their way."));
        }
    }
    if report.client.unfinished > 0 {
        let cut = plural(report.client.unfinished, "request");
        notes.push(format!("{cut} cut off when the run was stopped; they count for nothing."));
    }
    notes
}
