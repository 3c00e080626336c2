//! What share of requests meets its objectives on a pool, as predicted from the nodes' latency models.

use baton_types::LatencyProfile;

use super::{
    load::{Load, Replica, Sample},
    queueing::erlang_c,
};
use crate::chance::chance;

/// The share whose first token is in time when so many nodes share the prompts; of endless nodes when
/// `nodes` is none.
///
/// Waits are those of one queue for all nodes, M/G/n with Allen and Cunneen's correction for bursts
/// and lengths, and taken to be exponential if there are any.
pub(super) fn ttft(load: &Load, replica: &Replica, nodes: Option<u32>) -> f64 {
    let wait = nodes.map(|nodes| Wait::of(load, replica, nodes));
    load.mean(|sample| {
        let cached = sample.tokens - sample.new_tokens;
        let alone = replica.latency.prefill(sample.new_tokens as u64, cached as u64).as_secs_f64();
        let alone_in_time = chance(alone, sample.ttft, replica.prefill_spread);
        alone_in_time * wait.map_or(1.0, |wait| wait.within(sample.ttft - alone))
    })
}

/// The share whose tokens come in time when so many nodes share the decoding; of endless nodes when
/// `nodes` is none.
///
/// A step's time and the batch follow from each other: a batch holds what comes during the lives of
/// those in it (Little), and steps are linear in it. Requests are spread evenly, so that a batch
/// varies as the pool's total does, which is Poisson.
pub(super) fn tpot(load: &Load, replica: &Replica, nodes: Option<u32>) -> f64 {
    let LatencyProfile { decode_us, decode_sequence_us, decode_context_us, .. } =
        replica.latency.profile;
    let more = load.mean(|sample| sample.more);
    if more < 1.0 {
        return 1.0;
    }
    // Who decodes longer is met more often in a batch.
    let context = load.mean(|s| s.more * (s.tokens + s.more / 2.0)) / more;
    let step = |us: f64| replica.decode_bias * us / 1e6;
    let (empty, share) = (step(decode_us), step(decode_sequence_us + decode_context_us * context));
    let (mut took, mut spread) = (empty + share, replica.decode_spread);
    if let Some(nodes) = nodes.map(f64::from) {
        // Tokens a second, of each node.
        let tokens = load.rate / nodes * more;
        if tokens * share >= 1.0 {
            return 0.0;
        }
        took /= 1.0 - tokens * share;
        let batch = tokens * took;
        let pages = load.mean(|sample| sample.new_tokens) * replica.transfer;
        if load.rate / nodes * pages > MOST_LINK {
            return 0.0;
        }
        let most = load.mean(|sample| sample.tokens + sample.most);
        let all = nodes * batch;
        if (all + 2.0 * all.sqrt()) * most > nodes * replica.pool_tokens {
            return 0.0;
        }
        spread = spread.hypot(share * (batch / nodes).sqrt() / took);
    }
    // It joins in the midst of a step.
    let of = |sample: &Sample| took * (1.0 + 0.5 / sample.more.max(1.0));
    load.mean(|sample| chance(of(sample), sample.tpot, spread))
}

/// The share of a link's time that pages may take: beyond it they come late.
const MOST_LINK: f64 = 0.8;

/// How long prompts wait for others.
#[derive(Clone, Copy, Debug)]
struct Wait {
    /// The chance to wait at all,
    any: f64,
    /// and then the mean, in seconds.
    mean: f64,
}

impl Wait {
    fn of(load: &Load, replica: &Replica, nodes: u32) -> Self {
        let service = load.mean(|sample| shared(replica, sample));
        let squares = load.mean(|sample| shared(replica, sample).powi(2));
        let work = load.rate * service;
        let all = f64::from(nodes);
        if work >= all || service <= 0.0 {
            return Wait { any: f64::from(u8::from(service > 0.0)), mean: f64::INFINITY };
        }
        let variation = (squares / (service * service) - 1.0).max(0.0);
        let mean = (load.burstiness + variation) / 2.0 * service / (all - work);
        Wait { any: erlang_c(nodes, work), mean }
    }

    /// The chance that it takes `limit` seconds at most.
    fn within(&self, limit: f64) -> f64 {
        if limit <= 0.0 || self.mean.is_infinite() && self.any > 0.0 {
            return 0.0;
        }
        1.0 - self.any * (-limit / self.mean.max(1e-9)).exp()
    }
}

/// What a prompt takes of a node's time when steps are full.
fn shared(replica: &Replica, sample: &Sample) -> f64 {
    let LatencyProfile { prefill_us, prefill_token_us, prefill_attention_us, .. } =
        replica.latency.profile;
    let Sample { tokens, new_tokens, .. } = *sample;
    let in_step = f64::from(replica.latency.max_batch_tokens.max(1));
    let pairs = new_tokens * (new_tokens / 2.0 + tokens - new_tokens);
    let us = (prefill_us / in_step + prefill_token_us) * new_tokens + prefill_attention_us * pairs;
    us / 1e6
}
