//! What one model is asked for, and what its nodes take.

use baton_types::{LatencyProfile, ModelId, Role, Time};

use super::{AdviceConfig, traffic::Ended};
use crate::{ClusterView, LatencyModel, NodeView};

/// What comes, as of now.
#[derive(Clone, Debug, Default)]
pub(super) struct Load {
    /// Requests a second.
    pub(super) rate: f64,
    /// Squared coefficient of variation of the time between two arrivals.
    pub(super) burstiness: f64,
    pub(super) requests: Vec<Sample>,
    pub(super) attained: Attained,
}

/// One of the latest requests. Objectives in seconds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sample {
    pub(super) tokens: f64,
    pub(super) new_tokens: f64,
    /// Expected tokens after the first,
    pub(super) more: f64,
    /// and what memory is kept for.
    pub(super) most: f64,
    pub(super) ttft: f64,
    pub(super) tpot: f64,
}

/// Of the requests that ended in the latest window, refused ones included.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Attained {
    pub(super) outcomes: usize,
    /// The share that met both objectives.
    pub(super) share: f64,
    /// Mean seconds to the first token, of those that had one.
    pub(super) mean_ttft: Option<f64>,
}

/// The mean node of a role.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replica {
    /// How many there are that take requests.
    pub(super) nodes: u32,
    pub(super) latency: LatencyModel,
    /// Standard deviation of ln(actual/predicted) of prompts,
    pub(super) prefill_spread: f64,
    /// of decode steps, and by what those come out longer than predicted.
    pub(super) decode_spread: f64,
    pub(super) decode_bias: f64,
    pub(super) pool_tokens: f64,
    /// Seconds that a prompt's token takes on the way to a decode node.
    pub(super) transfer: f64,
}

impl Load {
    /// None while nothing came.
    pub(super) fn of(
        config: &AdviceConfig,
        view: &ClusterView,
        model: &ModelId,
        now: Time,
    ) -> Option<Self> {
        let seen = view.traffic.of(model)?;
        let requests: Vec<Sample> = seen
            .asked
            .iter()
            .map(|asked| {
                let expected = view.outputs.expected(model, asked.class, u32::MAX, OUTPUT);
                let most = asked.max_new_tokens.max(1);
                let (ttft, tpot) = config.objectives(asked.slo);
                Sample {
                    tokens: asked.tokens.into(),
                    new_tokens: asked.new_tokens.into(),
                    more: f64::from(expected.tokens.min(most) - 1),
                    most: f64::from(expected.most.min(most)),
                    ttft: ttft.as_secs_f64(),
                    tpot: tpot.as_secs_f64(),
                }
            })
            .collect();
        let gaps: Vec<f64> = seen
            .asked
            .iter()
            .zip(seen.asked.iter().skip(1))
            .map(|(a, b)| b.at.since(a.at).as_secs_f64())
            .collect();
        let from = Time::from_nanos(now.as_nanos().saturating_sub(config.window.as_nanos() as u64));
        let ended = seen.ended.iter().filter(|ended| ended.at >= from);
        Some(Load {
            rate: view.traffic.rate(model, now),
            burstiness: squared_variation(&gaps).clamp(BURSTINESS[0], BURSTINESS[1]),
            requests,
            attained: Attained::of(config, ended),
        })
    }

    /// The same requests, so many times as often.
    pub(super) fn scaled(&self, by: f64) -> Self {
        Load { rate: by * self.rate, ..self.clone() }
    }

    /// Of the latest requests.
    pub(super) fn mean(&self, of: impl Fn(&Sample) -> f64) -> f64 {
        self.requests.iter().map(of).sum::<f64>() / (self.requests.len() as f64).max(1.0)
    }
}

/// How long outputs are taken to be before any has ended.
const OUTPUT: u32 = 128;
/// A few arrivals say little, and those before and after a change of the rate seem to be bursts.
const BURSTINESS: [f64; 2] = [0.5, 4.0];

fn squared_variation(values: &[f64]) -> f64 {
    let count = values.len() as f64;
    let mean = values.iter().sum::<f64>() / count;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / count;
    let squared = variance / (mean * mean);
    if squared.is_finite() { squared } else { 1.0 }
}

impl Attained {
    fn of<'a>(config: &AdviceConfig, ended: impl Iterator<Item = &'a Ended>) -> Self {
        let (mut outcomes, mut met, mut began, mut sum) = (0, 0.0, 0.0, 0.0);
        for Ended { ttft, tpot, slo, .. } in ended {
            outcomes += 1;
            let Some(first) = ttft else { continue };
            let targets = config.objectives(*slo);
            began += 1.0;
            sum += first.as_secs_f64();
            if *first <= targets.0 && tpot.is_none_or(|took| took <= targets.1) {
                met += 1.0;
            }
        }
        Attained {
            outcomes,
            share: met / f64::max(1.0, outcomes as f64),
            mean_ttft: (began > 0.0).then(|| sum / began),
        }
    }
}

impl Replica {
    /// None if the model has no nodes at all. A role without any is taken to be like the other.
    pub(super) fn of(view: &ClusterView, model: &ModelId, role: Role) -> Option<Self> {
        let of = |role| -> Vec<&NodeView> {
            let all = view.nodes(role).iter();
            all.filter(|node| node.group.model == *model && node.accepts()).collect()
        };
        let (own, other) = match role {
            Role::Prefill => (of(Role::Prefill), Role::Decode),
            Role::Decode => (of(Role::Decode), Role::Prefill),
        };
        let nodes = own.len() as u32;
        let like = if own.is_empty() { of(other) } else { own };
        let first = like.first()?;
        let mean = |value: &dyn Fn(&NodeView) -> f64| {
            like.iter().map(|node| value(node)).sum::<f64>() / like.len() as f64
        };
        let coefficient = |of: fn(&LatencyProfile) -> f64| mean(&|node| of(&node.latency.profile));
        let profile = LatencyProfile {
            prefill_us: coefficient(|profile| profile.prefill_us),
            prefill_token_us: coefficient(|profile| profile.prefill_token_us),
            prefill_attention_us: coefficient(|profile| profile.prefill_attention_us),
            decode_us: coefficient(|profile| profile.decode_us),
            decode_sequence_us: coefficient(|profile| profile.decode_sequence_us),
            decode_context_us: coefficient(|profile| profile.decode_context_us),
            mixing: first.latency.profile.mixing,
        };
        Some(Replica {
            nodes,
            latency: LatencyModel { profile, ..first.latency },
            prefill_spread: mean(&|node| node.fit.error().prefill),
            decode_spread: mean(&|node| node.tpot.spread()),
            decode_bias: mean(&|node| node.tpot.corrected(1.0)),
            pool_tokens: mean(&|node| node.pool_tokens().into()),
            transfer: mean(&|node| {
                let layout = node.group.layout;
                let bytes = layout.block_bytes() as f64 / f64::from(layout.block_tokens.max(1));
                bytes / node.link.bytes_per_second
            }),
        })
    }
}
