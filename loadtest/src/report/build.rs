//! From recorders to reports.

use std::collections::BTreeMap;

use super::{
    ClassReport, ClientReport, Latencies, LatencyReport, LengthsReport, PartReport, PartsReport,
    SliceReport, SlowReport, TargetReport,
};
use crate::{
    measure::{BLOCKS, Estimate, Histogram, Intervals, Parts, Recorder, Totals},
    outcome::Outcome,
    run::{Class, Health},
    slo::{Latency, Quantile},
};

/// Later than this, and the client's own queue is what is measured.
const LATE_MS: f64 = 5.0;
/// Busier than this a thread is late soon.
const BUSY: f64 = 0.95;

/// How the client was.
pub fn about_client(health: &Health, threads: usize, not_sent: u64) -> ClientReport {
    ClientReport {
        threads,
        cpu: health.cpu,
        late_ms: health.late.distribution(),
        lag_ms: health.lag.distribution(),
        most_in_flight: health.most_in_flight,
        peak_memory_bytes: peak_memory(),
        unfinished: health.unfinished,
        saturated: saturation(health, not_sent),
    }
}

/// Of this process (proc_pid_status(5)).
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Why the client can't be trusted, if it can't.
pub fn saturation(health: &Health, not_sent: u64) -> Option<String> {
    let p99 = |histogram: &Histogram| histogram.value(Quantile::P99).unwrap_or(0.0);
    let (late, lag) = (p99(&health.late), p99(&health.lag));
    let said = if not_sent > 0 {
        format!(
            "{not_sent} requests weren't sent: as many as may be were on their way (--max-in-flight)"
        )
    } else if late > LATE_MS {
        format!("1 % of requests were sent {late:.1} ms late or more")
    } else if lag > LATE_MS {
        format!("1 % of what came was heard {lag:.1} ms late or more")
    } else if health.cpu > BUSY {
        format!("a thread was busy for {:.0} % of the time", 100.0 * health.cpu)
    } else {
        return None;
    };
    Some(format!(
        "{said}: the client may be the bottleneck; give it more --threads and cores, or offer less"
    ))
}

/// What one target did.
pub fn about_target(
    name: &str,
    protocol: &str,
    model: &str,
    recorder: &Recorder,
    classes: &[Class],
    seed: u64,
) -> TargetReport {
    let window = recorder.window();
    let all = recorder.totals();
    let seconds = window.length().as_secs_f64().max(1e-9);
    let offered = (all.offered as f64).max(1.0);
    let blocks = recorder.slices.blocks(window.from, window.to, BLOCKS);
    let intervals = Intervals::of(&blocks, seed);
    let rate = all.offered as f64 / seconds;
    let attainment = Estimate { value: all.met as f64 / offered, interval: intervals.attainment };
    let share = |met: u64| met as f64 / offered;
    TargetReport {
        name: name.to_owned(),
        protocol: protocol.to_owned(),
        model: model.to_owned(),
        offered: all.offered,
        completed: all.completed,
        refused: all.refused.clone(),
        failed: all.failed.clone(),
        examples: all.examples.clone(),
        not_sent: all.not_sent,
        resumed: all.resumed,
        outside: recorder.outside,
        offered_rate: rate,
        attainment,
        ttft_attainment: share(all.met_ttft),
        tpot_attainment: share(all.met_tpot),
        e2e_attainment: share(all.met_e2e),
        goodput: attainment.times(rate),
        prompt_tokens: all.prompt_tokens,
        cached_tokens: all.cached_tokens,
        output_tokens: all.output_tokens,
        output_tokens_per_s: all.output_tokens as f64 / seconds,
        latencies: latencies(&all, Some(&intervals)),
        classes: class_reports(recorder, classes, seconds),
        parts: parts(&recorder.parts),
        slowest: recorder.slowest.sorted().into_iter().map(slow).collect(),
        timeline: timeline(recorder),
        lengths: LengthsReport {
            prompts: recorder.lengths.prompts,
            exact: recorder.lengths.exact,
            worst: recorder.lengths.worst,
            short: recorder.lengths.short,
        },
    }
}

fn class_reports(recorder: &Recorder, classes: &[Class], seconds: f64) -> Vec<ClassReport> {
    if classes.len() < 2 {
        return Vec::new();
    }
    let report = |(class, totals): (&Class, &Totals)| {
        let attainment = totals.met as f64 / (totals.offered as f64).max(1.0);
        ClassReport {
            name: class.name.as_deref().unwrap_or_default().to_owned(),
            offered: totals.offered,
            completed: totals.completed,
            attainment,
            goodput: totals.met as f64 / seconds,
            latencies: latencies(totals, None),
        }
    };
    classes.iter().zip(&recorder.classes).map(report).collect()
}

fn latencies(totals: &Totals, intervals: Option<&Intervals>) -> Latencies {
    let report = |latency: Latency| {
        latency_report(totals.histogram(latency), intervals.map(|of| (latency, of)))
    };
    Latencies {
        ttft: report(Latency::Ttft),
        tpot: report(Latency::Tpot),
        itl: report(Latency::Itl),
        e2e: report(Latency::E2e),
        longest_gap: latency_report(&totals.longest_gap, None),
    }
}

fn latency_report(
    histogram: &Histogram,
    intervals: Option<(Latency, &Intervals)>,
) -> Option<LatencyReport> {
    let known = |quantile: Quantile| {
        let (latency, intervals) = intervals?;
        Some((quantile.name().to_owned(), intervals.latency(latency, quantile)?))
    };
    let found: BTreeMap<_, _> = Quantile::ALL.into_iter().filter_map(known).collect();
    let buckets = if intervals.is_some() { histogram.buckets() } else { Vec::new() };
    Some(LatencyReport { of: histogram.distribution()?, intervals: found, buckets })
}

fn parts(parts: &Parts) -> Option<PartsReport> {
    let named = |all: &[(&str, &Histogram)]| -> Vec<PartReport> {
        let report = |(name, histogram): &(&str, &Histogram)| {
            Some(PartReport { name: (*name).to_owned(), of: histogram.distribution()? })
        };
        all.iter().filter_map(report).collect()
    };
    let ttft = named(&[
        ("sent late", &parts.late),
        ("network", &parts.network),
        ("router queue", &parts.router_queue),
        ("prefill queue", &parts.prefill_queue),
        ("prefill", &parts.prefill),
        ("between", &parts.rest),
    ]);
    let second_token = named(&[
        ("exposed transfer", &parts.exposed_transfer),
        ("decode admission", &parts.decode_admission),
        ("first decode step", &parts.first_decode_step),
    ]);
    (!ttft.is_empty()).then_some(PartsReport { ttft, second_token })
}

fn slow(outcome: &Outcome) -> SlowReport {
    let ms = |took: std::time::Duration| took.as_secs_f64() * 1e3;
    let ttft = outcome.ttft().unwrap_or_default();
    let late = outcome.sent.saturating_sub(outcome.due);
    let parts = outcome.timings.map(|timings| {
        let split = timings.split(ttft, late);
        let all = [
            ("sent late", late),
            ("network", split.network),
            ("router queue", timings.router_queue),
            ("prefill queue", timings.prefill_queue),
            ("prefill", timings.prefill),
            ("between", split.rest),
        ];
        all.into_iter().map(|(name, took)| (name.to_owned(), ms(took))).collect()
    });
    SlowReport {
        request_id: outcome.request_id.clone(),
        number: outcome.number,
        turn: outcome.turn,
        due_s: outcome.due.as_secs_f64(),
        ttft_ms: ms(ttft),
        tpot_ms: outcome.tpot().map(ms),
        e2e_ms: outcome.e2e().map(ms),
        prompt_tokens: outcome.prompt_told.or(outcome.prompt_asked),
        output_tokens: outcome.output_tokens,
        parts: parts.unwrap_or_default(),
    }
}

fn timeline(recorder: &Recorder) -> Vec<SliceReport> {
    let width = recorder.slices.width().as_secs_f64();
    let window = recorder.window();
    let mut in_flight = 0_i64;
    let report = |(at, slice): (std::time::Duration, &crate::measure::Slice)| {
        in_flight += slice.began as i64 - slice.ended as i64;
        SliceReport {
            at_s: at.as_secs_f64(),
            width_s: width,
            offered: slice.offered,
            met: slice.met,
            completed: slice.completed,
            refused: slice.refused,
            failed: slice.failed,
            ttft_p50_ms: slice.ttft.value(Quantile::P50),
            ttft_p99_ms: slice.ttft.value(Quantile::P99),
            tpot_p50_ms: slice.tpot.value(Quantile::P50),
            tpot_p99_ms: slice.tpot.value(Quantile::P99),
            tokens_per_s: slice.tokens as f64 / width,
            in_flight: u64::try_from(in_flight).unwrap_or(0),
            counts: window.contains(at),
        }
    };
    recorder.slices.iter().map(report).collect()
}
