//! For people.

use std::fmt;

use super::{Distribution, MovesReport, PartsReport, Report, RoleReport, Scaled, Switched};
use crate::capacity::Capacity;

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { offered, completed, offered_rate, duration_s, .. } = self;
        writeln!(
            f,
            "{offered} requests at {offered_rate:.2}/s, {completed} completed, in {duration_s:.1} s \
             of simulated time"
        )?;
        for (what, reasons) in [("refused", &self.refused), ("failed", &self.failed)] {
            for (reason, count) in reasons {
                writeln!(f, "  {count} {what}: {reason}")?;
            }
        }
        if self.over_context > 0 {
            writeln!(f, "  {} longer than the model's context", self.over_context)?;
        }
        if self.retries > 0 {
            writeln!(f, "  {} attempts beyond the first", self.retries)?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "attainment {:.1} %   (TTFT {:.1} %, TPOT {:.1} %)",
            100.0 * self.attainment,
            100.0 * self.ttft_attainment,
            100.0 * self.tpot_attainment
        )?;
        writeln!(f, "goodput    {:.2} requests/s", self.goodput)?;
        writeln!(f, "output     {:.0} tokens/s", self.output_tokens_per_second)?;
        if self.cached_share > 0.0 {
            writeln!(f, "cached     {:.1} % of prompt tokens", 100.0 * self.cached_share)?;
        }
        if self.fragmented > 0.0 {
            writeln!(f, "fragmented {:.1} % of decode pools", 100.0 * self.fragmented)?;
        }
        if self.out_of_reach > 0 {
            writeln!(
                f,
                "\n{} of {offered} requests have targets that even an idle worker misses: \
                 loosen the objectives or take a faster profile",
                self.out_of_reach
            )?;
        }
        writeln!(f)?;
        self.times(f)?;
        if let Some(MovesReport { moved, not_moved, .. }) = &self.moves {
            writeln!(f)?;
            for (what, counts) in [("moved", moved), ("not moved", not_moved)] {
                for (why, count) in counts {
                    writeln!(f, "{count} {what}: {why}")?;
                }
            }
        }
        writeln!(f)?;
        self.workers(f)?;
        for Switched { at_s, node, to } in &self.switched {
            writeln!(f, "{at_s:>10.0} s: {node} becomes {to:?}")?;
        }
        if let Some(scaling) = &self.scaling {
            writeln!(
                f,
                "\nnodes      {:.0} node-seconds; prefill + decode from",
                scaling.node_seconds()
            )?;
            for Scaled { at_s, prefill, decode } in &scaling.changes {
                writeln!(f, "{at_s:>10.0} s: {prefill} + {decode}")?;
            }
        }
        if !self.leaks.is_empty() || self.leaked_reservations > 0 {
            writeln!(
                f,
                "\nnot everything was given back, which is a bug: {:?}, {} reservations",
                self.leaks, self.leaked_reservations
            )?;
        }
        Ok(())
    }
}

impl Report {
    fn times(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let PartsReport {
            router_queue_ms,
            prefill_queue_ms,
            prefill_ms,
            exposed_transfer_ms,
            decode_admission_ms,
            first_decode_step_ms,
        } = self.parts;
        writeln!(
            f,
            "{:<22}{:>10}{:>10}{:>10}{:>10}{:>10}",
            "milliseconds", "mean", "p50", "p90", "p99", "max"
        )?;
        for (name, times) in [
            ("TTFT", self.ttft_ms),
            ("  router queue", router_queue_ms),
            ("  prefill queue", prefill_queue_ms),
            ("  prefill", prefill_ms),
            ("TPOT", self.tpot_ms),
            ("  exposed transfer", exposed_transfer_ms),
            ("  decode admission", decode_admission_ms),
            ("  first decode step", first_decode_step_ms),
            ("longest gap", self.longest_gap_ms),
            ("  when moved", self.moves.as_ref().and_then(|moves| moves.gap_ms)),
        ] {
            let Some(Distribution { mean, p50, p90, p99, max, .. }) = times else { continue };
            writeln!(f, "{name:<22}{mean:>10.2}{p50:>10.2}{p90:>10.2}{p99:>10.2}{max:>10.2}")?;
        }
        Ok(())
    }

    fn workers(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<12}{:>8}{:>8}{:>9}{:>9}{:>14}{:>12}{:>12}",
            "role", "workers", "busy", "KV mean", "KV peak", "preemptions", "steps", "sent GB"
        )?;
        for role in &self.roles {
            let RoleReport {
                role,
                workers,
                utilisation,
                kv_mean,
                kv_peak,
                preemptions,
                steps,
                sent_bytes,
            } = *role;
            writeln!(
                f,
                "{role:<12}{workers:>8}{:>7.1}%{:>8.1}%{:>8.1}%{preemptions:>14}{steps:>12}{:>12.2}",
                100.0 * utilisation,
                100.0 * kv_mean,
                100.0 * kv_peak,
                sent_bytes as f64 / 1e9
            )?;
        }
        Ok(())
    }
}

impl fmt::Display for Capacity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Capacity { rate, per_worker, workers, by_seed, runs, .. } = self;
        write!(f, "capacity {:.2}", rate.mean)?;
        if rate.half_width.is_finite() {
            write!(f, " ± {:.2}", rate.half_width)?;
        }
        writeln!(f, " requests/s, {per_worker:.2} for each of {workers} workers")?;
        let seeds: Vec<String> = by_seed.iter().map(|rate| format!("{rate:.2}")).collect();
        writeln!(f, "by seed  {}, in {runs} simulations", seeds.join(", "))
    }
}
