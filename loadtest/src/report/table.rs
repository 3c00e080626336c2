//! A report for a terminal.

use std::fmt::Write;

use super::{CapacityReport, ChaosReport, LatencyReport, PartReport, Report, TargetReport};
use crate::slo::Quantile;

/// Everything a person wants to know first.
pub fn table(report: &Report) -> String {
    let mut out = String::new();
    workload(&mut out, report);
    for target in &report.targets {
        out.push('\n');
        one(&mut out, report, target);
    }
    if report.targets.len() > 1 {
        beside(&mut out, report);
    }
    for found in &report.capacity {
        capacity(&mut out, found);
    }
    if let Some(found) = &report.chaos {
        chaos(&mut out, found);
    }
    client(&mut out, report);
    checks(&mut out, report);
    if report.interrupted {
        out.push_str("\nstopped before its end: these are the requests that had ended by then\n");
    }
    out
}

/// Appends a line; writing to a string can't fail.
macro_rules! line {
    ($out:expr, $($format:tt)*) => { let _ = writeln!($out, $($format)*); };
}

fn workload(out: &mut String, report: &Report) {
    let workload = &report.workload;
    line!(
        out,
        "load      {}; prompts {} tokens, answers {}",
        workload.arrivals,
        workload.input,
        workload.output
    );
    for (name, value) in
        [("shared", &workload.shared), ("turns", &workload.turns), ("from", &workload.source)]
    {
        if let Some(value) = value {
            line!(out, "{name:<9} {value}");
        }
    }
    line!(
        out,
        "counted   from {:.1} s to {:.1} s, seed {}",
        workload.from_s,
        workload.to_s,
        workload.seed
    );
    if let Some(arrivals) = &report.arrivals {
        line!(out, "arrivals  {arrivals}");
    }
}

fn one(out: &mut String, report: &Report, target: &TargetReport) {
    line!(out, "{} ({}, {})", target.name, target.protocol, target.model);
    line!(out, "  offered     {:>9}   {:.3} requests/s", target.offered, target.offered_rate);
    line!(
        out,
        "  answered    {:>9}   {:.1} tokens/s",
        target.completed,
        target.output_tokens_per_s
    );
    for (what, reasons) in [("refused", &target.refused), ("failed", &target.failed)] {
        for (reason, times) in reasons {
            let example = target.examples.get(reason).filter(|said| !said.is_empty());
            let example = example.map_or_else(String::new, |said| format!(", such as: {said}"));
            line!(out, "  {what:<11} {times:>9}   {reason}{example}");
        }
    }
    if target.not_sent > 0 {
        line!(out, "  not sent    {:>9}", target.not_sent);
    }
    if target.resumed > 0 {
        line!(out, "  went on     {:>9}   elsewhere, after a connection broke", target.resumed);
    }
    let has_objectives = report
        .workload
        .classes
        .iter()
        .any(|class| class.ttft_ms.or(class.tpot_ms).or(class.e2e_ms).is_some());
    if has_objectives {
        let within = target.attainment.interval.map_or_else(String::new, |(low, high)| {
            format!("   95 %: {:.1} to {:.1}", 100.0 * low, 100.0 * high)
        });
        line!(out, "  in time     {:>8.1}%{within}", 100.0 * target.attainment.value);
        line!(
            out,
            "              {:>8.1}% began, {:.1} % went on, {:.1} % ended in time",
            100.0 * target.ttft_attainment,
            100.0 * target.tpot_attainment,
            100.0 * target.e2e_attainment
        );
        line!(out, "  goodput     {:>9.3}   requests/s in time", target.goodput.value);
    }
    latencies(out, target);
    classes(out, target);
    parts(out, target);
    slowest(out, target);
    lengths(out, target);
}

fn latencies(out: &mut String, target: &TargetReport) {
    let rows: [(&str, &Option<LatencyReport>); 5] = [
        ("TTFT", &target.latencies.ttft),
        ("TPOT", &target.latencies.tpot),
        ("ITL", &target.latencies.itl),
        ("end to end", &target.latencies.e2e),
        ("longest gap", &target.latencies.longest_gap),
    ];
    if rows.iter().all(|(_, latency)| latency.is_none()) {
        return;
    }
    line!(
        out,
        "\n  {:<12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "ms",
        "mean",
        "P50",
        "P90",
        "P95",
        "P99",
        "max"
    );
    for (name, latency) in rows {
        let Some(latency) = latency else { continue };
        let cells: String = Quantile::ALL
            .iter()
            .map(|quantile| format!(" {:>9.2}", latency.of.value(*quantile)))
            .collect();
        line!(out, "  {name:<12}{cells}");
        if let Some((low, high)) = latency.intervals.get(Quantile::P99.name()) {
            line!(out, "  {:<12} P99 is between {low:.2} and {high:.2}, with 95 % confidence", "");
        }
    }
}

fn classes(out: &mut String, target: &TargetReport) {
    if target.classes.is_empty() {
        return;
    }
    line!(
        out,
        "\n  {:<12} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "class",
        "offered",
        "answered",
        "in time",
        "goodput",
        "TTFT P99",
        "TPOT P99"
    );
    for class in &target.classes {
        let p99 = |latency: &Option<LatencyReport>| {
            latency.as_ref().map_or_else(|| "–".to_owned(), |of| format!("{:.2}", of.of.p99))
        };
        line!(
            out,
            "  {:<12} {:>9} {:>9} {:>8.1}% {:>9.3} {:>9} {:>9}",
            class.name,
            class.offered,
            class.completed,
            100.0 * class.attainment,
            class.goodput,
            p99(&class.latencies.ttft),
            p99(&class.latencies.tpot)
        );
    }
}

fn parts(out: &mut String, target: &TargetReport) {
    let Some(parts) = &target.parts else { return };
    let rows = |out: &mut String, title: &str, parts: &[PartReport]| {
        line!(out, "\n  {title:<26} {:>9} {:>9} {:>9}", "mean", "P50", "P99");
        for part in parts {
            line!(
                out,
                "    {:<24} {:>9.2} {:>9.2} {:>9.2}",
                part.name,
                part.of.mean,
                part.of.p50,
                part.of.p99
            );
        }
    };
    rows(out, "where TTFT went, ms", &parts.ttft);
    rows(out, "then, to the second token", &parts.second_token);
}

fn slowest(out: &mut String, target: &TargetReport) {
    const SHOWN: usize = 5;
    let Some(first) = target.slowest.first() else { return };
    line!(
        out,
        "\n  slowest to their first token{}",
        if first.parts.is_empty() {
            ""
        } else {
            " (baton explain ID says why they ran where they did)"
        }
    );
    for slow in target.slowest.iter().take(SHOWN) {
        let id = slow
            .request_id
            .clone()
            .unwrap_or_else(|| format!("request {}.{}", slow.number, slow.turn));
        let mut parts: Vec<_> =
            slow.parts.iter().filter(|(_, ms)| *ms >= 0.01 * slow.ttft_ms).collect();
        parts.sort_by(|a, b| b.1.total_cmp(&a.1));
        let parts: Vec<_> =
            parts.iter().take(3).map(|(name, ms)| format!("{name} {ms:.1}")).collect();
        line!(
            out,
            "    {:>9.2} ms  at {:>7.2} s  {id}  {}",
            slow.ttft_ms,
            slow.due_s,
            parts.join(", ")
        );
    }
}

fn lengths(out: &mut String, target: &TargetReport) {
    let lengths = &target.lengths;
    if lengths.prompts > 0 && lengths.exact < lengths.prompts {
        line!(
            out,
            "\n  {} of {} prompts had exactly as many tokens as they were to have; the worst was {} off",
            lengths.exact,
            lengths.prompts,
            lengths.worst
        );
    }
    if lengths.short > 0 {
        line!(
            out,
            "\n  {} of {} answers ended before they had as many tokens as were asked for",
            lengths.short,
            target.completed
        );
    }
}

/// Targets beside the first.
fn beside(out: &mut String, report: &Report) {
    let width = report.targets.iter().map(|target| target.name.len()).max().unwrap_or(0);
    let first = &report.targets[0];
    line!(out, "\nbeside {}", first.name);
    line!(
        out,
        "  {:<width$} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "",
        "in time",
        "TTFT P50",
        "TTFT P99",
        "TPOT P50",
        "TPOT P99"
    );
    for target in &report.targets[1..] {
        let ratio = |of: fn(&TargetReport) -> Option<f64>| {
            of(target)
                .zip(of(first))
                .map_or_else(|| "–".to_owned(), |(is, was)| format!("{:.2} ×", is / was))
        };
        line!(
            out,
            "  {:<width$} {:>+5.1} pts {:>9} {:>9} {:>9} {:>9}",
            target.name,
            100.0 * (target.attainment.value - first.attainment.value),
            ratio(|target| Some(target.latencies.ttft.as_ref()?.of.p50)),
            ratio(|target| Some(target.latencies.ttft.as_ref()?.of.p99)),
            ratio(|target| Some(target.latencies.tpot.as_ref()?.of.p50)),
            ratio(|target| Some(target.latencies.tpot.as_ref()?.of.p99))
        );
    }
}

fn capacity(out: &mut String, found: &CapacityReport) {
    line!(
        out,
        "\n{}: {}",
        found.target,
        if found.statement.is_empty() { "at several rates" } else { &found.statement }
    );
    if let Some(doubt) = found.doubt() {
        line!(out, "  {doubt}");
    }
    line!(
        out,
        "  {:>10} {:>9} {:>9} {:>9} {:>9} {:>9} {:>9}",
        "requests/s",
        "in time",
        "goodput",
        "TTFT P50",
        "TTFT P99",
        "TPOT P50",
        "TPOT P99"
    );
    for point in &found.curve {
        let ms = |ms: Option<f64>| ms.map_or_else(|| "–".to_owned(), |ms| format!("{ms:.1}"));
        line!(
            out,
            "  {:>10.3} {:>8.1}% {:>9.3} {:>9} {:>9} {:>9} {:>9}",
            point.rate,
            100.0 * point.attainment.value,
            point.goodput,
            ms(point.ttft_p50_ms),
            ms(point.ttft_p99_ms),
            ms(point.tpot_p50_ms),
            ms(point.tpot_p99_ms)
        );
    }
}

fn chaos(out: &mut String, found: &ChaosReport) {
    line!(out, "\nfaults");
    for fault in &found.faults {
        let status = match fault.status {
            Some(0) => String::new(),
            Some(status) => format!("  (exit status {status}: {})", fault.said),
            None => format!("  (not run: {})", fault.said),
        };
        line!(out, "  {:>7.2} s  {}{status}", fault.at_s, fault.command);
    }
    for (target, verdict) in &found.tokens {
        line!(
            out,
            "  {target}: of {} answers {} have exactly the tokens of the run without faults; {} lack some, {} have some twice, {} differ",
            verdict.compared,
            verdict.exact,
            verdict.lost,
            verdict.doubled,
            verdict.wrong
        );
        for example in &verdict.examples {
            line!(out, "    {example}");
        }
    }
}

fn client(out: &mut String, report: &Report) {
    let client = &report.client;
    let p99 = client.late_ms.map_or_else(String::new, |late| {
        format!("99 % of requests sent at most {:.2} ms late; ", late.p99)
    });
    line!(
        out,
        "\nclient    {p99}busiest thread {:.0} %; at most {} answers on their way{}",
        100.0 * client.cpu,
        client.most_in_flight,
        client
            .peak_memory_bytes
            .map_or_else(String::new, |bytes| format!("; {} MB of memory", bytes >> 20))
    );
    if let Some(why) = &client.saturated {
        line!(out, "          ATTENTION: {why}");
    }
    if client.unfinished > 0 {
        line!(
            out,
            "          {} requests were cut off when the run was stopped; they count for nothing",
            client.unfinished
        );
    }
}

fn checks(out: &mut String, report: &Report) {
    if !report.checks.is_empty() {
        out.push('\n');
    }
    for check in &report.checks {
        let mark = if check.passed { "ok    " } else { "MISSED" };
        line!(out, "{mark}  {}: {}", check.wanted, check.found);
    }
}
