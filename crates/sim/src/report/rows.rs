//! For spreadsheets: a row for each request.

use std::{io, time::Duration};

use serde::Serialize;

use super::{Report, millis};
use crate::{
    capacity::Capacity,
    outcome::{End, Outcome},
};

#[derive(Serialize)]
struct Row {
    request: u64,
    arrival_s: f64,
    prompt_tokens: u32,
    output_tokens: u32,
    end: &'static str,
    reason: &'static str,
    met: bool,
    ttft_ms: Option<f64>,
    tpot_ms: Option<f64>,
    longest_gap_ms: Option<f64>,
    router_queue_ms: f64,
    prefill_queue_ms: f64,
    prefill_ms: f64,
    exposed_transfer_ms: Option<f64>,
    decode_admission_ms: Option<f64>,
    first_decode_step_ms: Option<f64>,
    cached_tokens: u32,
    attempts: u32,
    moves: u32,
}

impl Report {
    /// Writes a header and a row for each request, in order of arrival.
    pub fn write_csv(&self, out: impl io::Write) -> io::Result<()> {
        let mut writer = csv::Writer::from_writer(out);
        for outcome in &self.outcomes {
            writer.serialize(row(outcome)).map_err(io::Error::other)?;
        }
        writer.flush()
    }
}

fn row(outcome: &Outcome) -> Row {
    let (end, reason) = match outcome.end {
        End::Completed => ("completed", ""),
        End::Refused(reason) => ("refused", reason),
        End::Failed(reason) => ("failed", reason),
    };
    let some = |time: Option<Duration>| time.map(millis);
    let parts = outcome.parts;
    Row {
        request: outcome.number,
        arrival_s: outcome.at.as_nanos() as f64 / 1e9,
        prompt_tokens: outcome.prompt_tokens,
        output_tokens: outcome.output_tokens,
        end,
        reason,
        met: outcome.met(),
        ttft_ms: some(outcome.ttft),
        tpot_ms: some(outcome.tpot),
        longest_gap_ms: some(outcome.longest_gap),
        router_queue_ms: millis(parts.router_queue),
        prefill_queue_ms: millis(parts.prefill_queue),
        prefill_ms: millis(parts.prefill),
        exposed_transfer_ms: some(parts.exposed_transfer),
        decode_admission_ms: some(parts.decode_admission),
        first_decode_step_ms: some(parts.first_decode_step),
        cached_tokens: outcome.cached_tokens,
        attempts: outcome.attempts,
        moves: outcome.moves,
    }
}

impl Capacity {
    /// Writes a header and a row for each rate that was tried, lowest first.
    pub fn write_csv(&self, out: impl io::Write) -> io::Result<()> {
        let mut writer = csv::Writer::from_writer(out);
        writer.write_record(["rate", "attainment"]).map_err(io::Error::other)?;
        for row in &self.tried {
            writer.serialize(row).map_err(io::Error::other)?;
        }
        writer.flush()
    }
}
