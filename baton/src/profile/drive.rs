//! Making the requests.

use std::time::{Duration, Instant};

use baton_proto::v1::{
    GenerateRequest, Sampling, Timings, TokenIds, Usage, generate_request::Prompt,
};
use baton_sim::plan::measure::Transfer;
use futures::future::try_join_all;

use super::rounds::{Ask, Round, Rounds, work};
use crate::client::{Client, ClientError};

/// A series that took a larger share of the whole time than this isn't made again, nor a larger one.
const SERIES_SHARE: f64 = 0.1;
/// Token ids that any vocabulary has, and that no model takes for the end: none is below the first, and
/// there are so many of them.
const TOKENS: (u32, u64) = (32, 95);

/// What the requests were answered with.
#[derive(Clone, Debug, Default)]
pub(super) struct Done {
    pub(super) requests: usize,
    /// Prompt tokens that were computed,
    pub(super) prefill_tokens: u64,
    /// and tokens that were decoded.
    pub(super) decode_tokens: u64,
    /// Of requests that ran alone.
    pub(super) transfers: Vec<Transfer>,
}

impl Done {
    /// Makes round after round until the time is over.
    pub(super) async fn make_all(
        &mut self,
        client: &Client,
        model: &str,
        rounds: &mut Rounds,
        time: Duration,
    ) -> Result<(), ClientError> {
        let (began, mut most) = (Instant::now(), u32::MAX);
        for number in 0.. {
            let mut pass = rounds.pass(number);
            pass.retain(|series| work(series) < most);
            if pass.is_empty() {
                break;
            }
            for series in pass {
                if work(&series) >= most {
                    continue;
                }
                let before = Instant::now();
                for round in &series {
                    if began.elapsed() >= time {
                        return Ok(());
                    }
                    self.make(client, model, round).await?;
                }
                if before.elapsed() > time.mul_f64(SERIES_SHARE) {
                    most = most.min(work(&series));
                }
            }
        }
        Ok(())
    }

    pub(super) async fn make(
        &mut self,
        client: &Client,
        model: &str,
        round: &Round,
    ) -> Result<(), ClientError> {
        let asks = round.iter().map(|ask| client.generate(request(model, ask)));
        for (usage, timings) in try_join_all(asks).await? {
            self.count(round, &usage, &timings);
        }
        Ok(())
    }

    fn count(&mut self, round: &Round, usage: &Usage, timings: &Timings) {
        self.requests += 1;
        self.prefill_tokens += u64::from(usage.prompt_tokens.saturating_sub(usage.cached_tokens));
        self.decode_tokens += u64::from(usage.completion_tokens.saturating_sub(1));
        if round.len() == 1 && timings.bytes_moved > 0 {
            self.transfers.push(Transfer {
                bytes: timings.bytes_moved,
                prefill: Duration::from_micros(timings.prefill_us),
                exposed: Duration::from_micros(timings.exposed_transfer_us),
            });
        }
    }
}

fn request(model: &str, ask: &Ask) -> GenerateRequest {
    let (first, count) = TOKENS;
    let ids = ask.prompt.iter().flat_map(|part| {
        let token = move |at| first + (mix(part.content ^ mix(at)) % count) as u32;
        (0..u64::from(part.tokens)).map(token)
    });
    GenerateRequest {
        model: model.to_owned(),
        prompt: Some(Prompt::TokenIds(TokenIds { ids: ids.collect() })),
        sampling: Some(Sampling {
            temperature: Some(0.0),
            max_tokens: Some(ask.output),
            min_tokens: Some(ask.output),
            ..Sampling::default()
        }),
        ..GenerateRequest::default()
    }
}

/// SplitMix64's finaliser.
fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
