//! The table after the first answer: which node did what, and how long it took.

use std::fmt::Write;

use baton_proto::v1::{Complete, FinishReason};

use crate::table::Table;

/// Where the time of one request went, as text for the terminal.
pub(super) fn report(complete: &Complete) -> String {
    let timings = complete.timings.clone().unwrap_or_default();
    let usage = complete.usage.unwrap_or_default();
    let (prefill, decode) = (&timings.prefill_node, &timings.decode_node);

    let mut table = Table::new(["node", "what it did", "time"]);
    let mut row = |node: &str, what: String, micros: u64| {
        table.row([node.to_owned(), what, milliseconds(micros)]);
    };
    row("router", "queue".into(), timings.router_queue_us);
    row(prefill, "queue".into(), timings.prefill_queue_us);
    let computed = usage.prompt_tokens.saturating_sub(usage.cached_tokens);
    row(prefill, format!("prefill of {computed} tokens, first token"), timings.prefill_us);
    if !decode.is_empty() {
        let moved = format!("transfer beyond prefill, {} pages", timings.pages_moved);
        row(decode, moved, timings.exposed_transfer_us);
        row(decode, "wait for a place in the batch".into(), timings.decode_admission_us);
        row(decode, "first decode step".into(), timings.first_decode_step_us);
    }

    let finish = match complete.finish_reason() {
        FinishReason::Stop | FinishReason::ToolCalls => "the model ended its answer",
        FinishReason::Length => "the token limit ended the answer",
        FinishReason::Unspecified => "no finish reason was given",
    };
    let mut text = table.to_string();
    let _ = writeln!(
        text,
        "\n  TTFT {} · TPOT {} · {} tokens after a prompt of {}; {finish}",
        milliseconds(timings.ttft_us),
        milliseconds(timings.tpot_us),
        usage.completion_tokens,
        usage.prompt_tokens,
    );
    if !decode.is_empty() {
        let (pages, moved) = (timings.pages_moved, bytes(timings.bytes_moved));
        let _ = writeln!(text, "  {prefill} → {decode}: {pages} pages, {moved}");
    }
    text
}

/// How to talk to the cluster.
/// `urls`: where the routers serve, one at least.
pub(super) fn invitation(urls: &[String], model: &str) -> String {
    let (url, all) = (&urls[0], urls.join(" and "));
    format!(
        "\nServing OpenAI HTTP and gRPC at {all} until Ctrl-C. Try:\n\n  \
         curl {url}/v1/chat/completions -H 'content-type: application/json' \\\n    \
         -d '{{\"model\": \"{model}\", \"messages\": [{{\"role\": \"user\", \"content\": \"Hello!\"}}]}}'\n  \
         baton chat --url {url}\n"
    )
}

fn milliseconds(micros: u64) -> String {
    match micros {
        0..10_000 => format!("{:.2} ms", micros as f64 / 1e3),
        10_000..1_000_000 => format!("{:.1} ms", micros as f64 / 1e3),
        _ => format!("{:.2} s", micros as f64 / 1e6),
    }
}

fn bytes(count: u64) -> String {
    match count {
        0..1_000 => format!("{count} bytes"),
        1_000..1_000_000 => format!("{:.1} kB", count as f64 / 1e3),
        _ => format!("{:.1} MB", count as f64 / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use baton_proto::v1::{Timings, Usage};

    use super::*;

    #[test]
    fn the_report_names_both_nodes_their_times_and_what_moved() {
        let complete = Complete {
            choice: 0,
            finish_reason: FinishReason::Stop.into(),
            usage: Some(Usage { prompt_tokens: 40, completion_tokens: 9, cached_tokens: 16 }),
            timings: Some(Timings {
                prefill_node: "prefill-1".into(),
                decode_node: "decode-2".into(),
                prefill_us: 123_456,
                exposed_transfer_us: 780,
                ttft_us: 1_500_000,
                pages_moved: 90,
                bytes_moved: 1_105_920,
                ..Timings::default()
            }),
        };
        let text = report(&complete);
        for part in [
            "prefill of 24 tokens, first token",
            "123.5 ms",
            "0.78 ms",
            "TTFT 1.50 s",
            "prefill-1 → decode-2: 90 pages, 1.1 MB",
            "9 tokens after a prompt of 40",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
    }

    #[test]
    fn a_request_that_ended_with_its_first_token_names_no_decode_node() {
        let timings = Timings { prefill_node: "prefill-1".into(), ..Timings::default() };
        let complete = Complete { timings: Some(timings), ..Complete::default() };
        assert!(!report(&complete).contains('→'));
    }
}
