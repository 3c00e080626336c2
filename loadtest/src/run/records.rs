//! Every request in a row of a file.

use std::{
    fs::File,
    io::{self, BufWriter},
    path::Path,
    sync::{Mutex, PoisonError},
};

use serde::Serialize;

use crate::outcome::{End, Outcome};

/// A CSV file that grows while the run goes on.
#[derive(Debug)]
pub(crate) struct Records(Mutex<Writer>);

#[derive(Debug)]
struct Writer {
    csv: csv::Writer<BufWriter<File>>,
    /// What went wrong first.
    failed: Option<csv::Error>,
}

/// Times are milliseconds; those of day are since the run's begin.
#[derive(Serialize)]
struct Row<'a> {
    target: &'a str,
    number: u64,
    turn: u32,
    class: &'a str,
    due_ms: f64,
    sent_ms: f64,
    end: &'static str,
    reason: &'a str,
    ttft_ms: Option<f64>,
    tpot_ms: Option<f64>,
    e2e_ms: Option<f64>,
    longest_gap_ms: Option<f64>,
    prompt_tokens: Option<u32>,
    cached_tokens: u32,
    output_tokens: u32,
    router_queue_ms: Option<f64>,
    prefill_queue_ms: Option<f64>,
    prefill_ms: Option<f64>,
    exposed_transfer_ms: Option<f64>,
    decode_admission_ms: Option<f64>,
    first_decode_step_ms: Option<f64>,
    resumed: u32,
    request_id: &'a str,
}

impl Records {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let csv = csv::Writer::from_writer(BufWriter::new(File::create(path)?));
        Ok(Records(Mutex::new(Writer { csv, failed: None })))
    }

    pub(super) fn write(&self, target: &str, class: Option<&str>, outcome: &Outcome) {
        let ms = |took: std::time::Duration| took.as_secs_f64() * 1e3;
        let (end, reason) = match &outcome.end {
            End::Completed => ("completed", ""),
            End::Refused(why) => ("refused", why.reason.as_str()),
            End::Failed(why) => ("failed", why.reason.as_str()),
            End::NotSent => ("not sent", ""),
        };
        let part = |of: fn(&crate::outcome::Timings) -> std::time::Duration| {
            outcome.timings.as_ref().map(of).map(ms)
        };
        let row = Row {
            target,
            number: outcome.number,
            turn: outcome.turn,
            class: class.unwrap_or_default(),
            due_ms: ms(outcome.due),
            sent_ms: ms(outcome.sent),
            end,
            reason,
            ttft_ms: outcome.ttft().map(ms),
            tpot_ms: outcome.tpot().map(ms),
            e2e_ms: outcome.e2e().map(ms),
            longest_gap_ms: outcome.longest_gap.map(ms),
            prompt_tokens: outcome.prompt_told.or(outcome.prompt_asked),
            cached_tokens: outcome.cached_tokens,
            output_tokens: outcome.output_tokens,
            router_queue_ms: part(|timings| timings.router_queue),
            prefill_queue_ms: part(|timings| timings.prefill_queue),
            prefill_ms: part(|timings| timings.prefill),
            exposed_transfer_ms: part(|timings| timings.exposed_transfer),
            decode_admission_ms: part(|timings| timings.decode_admission),
            first_decode_step_ms: part(|timings| timings.first_decode_step),
            resumed: outcome.resumed,
            request_id: outcome.request_id.as_deref().unwrap_or_default(),
        };
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = writer.csv.serialize(row) {
            writer.failed.get_or_insert(error);
        }
    }

    /// Everything is in the file, or what went wrong.
    pub(crate) fn finish(&self) -> Result<(), csv::Error> {
        let mut writer = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match writer.failed.take() {
            Some(error) => Err(error),
            None => Ok(writer.csv.flush()?),
        }
    }
}
