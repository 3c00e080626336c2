//! Others' formulas, to compare with.

use baton_types::Role;

use super::{
    Need, Reason,
    formula::{MOST_NODES, Question},
    load::{Load, Replica},
    predicted,
};

/// ⌈R / goodput⌉ of each phase, a node's goodput being the highest rate at which it alone meets the
/// phase's objective (DistServe, OSDI'24, §4.1), of Poisson arrivals. DistServe simulates one; here it is
/// found by bisection over the same predictions as ours.
pub(super) fn distserve(question: &Question) -> [Need; 2] {
    let poisson = Load { burstiness: 1.0, ..question.load.clone() };
    let need = |role, attained: fn(&Load, &Replica, Option<u32>) -> f64, replica: &Replica| {
        let least = question.attainment * attained(&poisson, replica, None);
        let is_met = |rate| {
            let load = Load { rate, ..poisson.clone() };
            attained(&load, replica, Some(1)) >= least
        };
        let (mut low, mut high) = (0.0, 1.0);
        while is_met(high) && high < MOST_RATE {
            (low, high) = (high, 2.0 * high);
        }
        for _ in 0..BISECTIONS {
            let middle = f64::midpoint(low, high);
            if is_met(middle) { low = middle } else { high = middle }
        }
        let (rate, goodput) = (question.load.rate, low);
        Need { role, nodes: nodes(rate / goodput), reason: Reason::Goodput { rate, goodput } }
    };
    let [prefill, decode] = &question.replicas;
    [need(Role::Prefill, predicted::ttft, prefill), need(Role::Decode, predicted::tpot, decode)]
}

/// Requests a second of one node.
const MOST_RATE: f64 = 1e5;
const BISECTIONS: u32 = 30;

/// Dynamo's planner (its design document, "Scaling Algorithm"): prefill's tokens a second, times
/// min(1, actual/expected TTFT), over a node's tokens a second at the mean length; decode's over a
/// node's at the largest batch whose steps take the objective divided by actual/expected TPOT.
pub(super) fn dynamo(question: &Question) -> [Need; 2] {
    let Question { load, replicas: [prefill, decode], .. } = question;
    let input = load.mean(|sample| sample.tokens);
    let alone = prefill.latency.prefill(input as u64, 0).as_secs_f64();
    let expected = alone.max(1e-9);
    let correction = load.attained.mean_ttft.map_or(1.0, |actual| (actual / expected).min(1.0));
    let tokens = load.rate * input * correction;
    let throughput = input / expected;
    let prefill = Need {
        role: Role::Prefill,
        nodes: nodes(tokens / throughput),
        reason: Reason::Throughput { tokens, throughput },
    };
    let output = load.mean(|sample| sample.more + 1.0);
    let context = input + output / 2.0;
    let target = load.mean(|sample| sample.tpot) / decode.decode_bias;
    let step = |batch: f64| {
        decode.latency.decode(batch as u64, (batch * context) as u64).as_secs_f64().max(1e-9)
    };
    let most = (decode.pool_tokens / context.max(1.0)).floor().max(1.0);
    let mut batch = 1.0;
    while batch < most && step(batch + 1.0) <= target {
        batch += 1.0;
    }
    let (tokens, throughput) = (load.rate * output, batch / step(batch));
    let decode = Need {
        role: Role::Decode,
        nodes: nodes(tokens / throughput),
        reason: Reason::Throughput { tokens, throughput },
    };
    [prefill, decode]
}

fn nodes(count: f64) -> u32 {
    if count.is_finite() { (count.ceil() as u32).clamp(1, MOST_NODES) } else { MOST_NODES }
}
