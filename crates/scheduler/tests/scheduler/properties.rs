//! Random operations on a prefill and a decode node: `same-tokens`, `exact-stream`, `one-owner`,
//! `no-leak`, `no-stale-page`, `no-lost-request`.

use std::time::Duration;

use baton_scheduler::SchedulerConfig;
use baton_types::{SamplingSpec, SequenceSpec, StopTokens, TokenId};
use proptest::prelude::*;

use crate::{
    cluster::{Cluster, prompt},
    node::spec,
};

#[derive(Clone, Debug)]
enum Op {
    Submit {
        spec: SequenceSpec,
        disaggregated: bool,
    },
    StepPrefill,
    StepDecode,
    FailPrefill {
        nth: usize,
    },
    FailDecode {
        nth: usize,
    },
    HandOver,
    Cancel {
        at: usize,
    },
    Replay {
        at: usize,
    },
    /// Somebody else takes blocks of the decode node, or gives them back.
    Take {
        blocks: usize,
    },
    Give,
}

prop_compose! {
    fn request()(
        family in 0..3_u32,
        shared in prop_oneof![Just(0_u32), Just(16), Just(48), 0..70_u32],
        own in 0..40_u32,
        salt in 0..4_u32,
        max_tokens in 1..40_u32,
        temperature in prop_oneof![Just(0.0_f32), Just(0.8)],
        seed in 0..3_u64,
        stop in prop::option::weighted(0.3, 32..127_u32),
        deadline in prop::option::weighted(0.1, 1..60_u64),
        urgent in prop::option::of(0..60_u64),
        cache_salt in prop_oneof![4 => Just(0_u64), 1 => Just(1)],
    ) -> SequenceSpec {
        let tokens = prompt(family, shared, own.max(1), salt);
        SequenceSpec {
            prompt_len: tokens.len() as u32,
            tokens,
            sampling: SamplingSpec::seeded(temperature, seed),
            stop_tokens: StopTokens(stop.map(TokenId).into_iter().collect()),
            deadline: deadline.map(Duration::from_millis),
            first_token_within: urgent.map(Duration::from_millis),
            cache_salt,
            ..spec(0, 1, max_tokens)
        }
    }
}

fn op() -> impl Strategy<Value = Op> {
    let at = 0..16_usize;
    prop_oneof![
        6 => (request(), any::<bool>())
            .prop_map(|(spec, disaggregated)| Op::Submit { spec, disaggregated }),
        8 => Just(Op::StepPrefill),
        16 => Just(Op::StepDecode),
        1 => at.clone().prop_map(|nth| Op::FailPrefill { nth }),
        1 => at.clone().prop_map(|nth| Op::FailDecode { nth }),
        5 => Just(Op::HandOver),
        2 => at.clone().prop_map(|at| Op::Cancel { at }),
        2 => at.prop_map(|at| Op::Replay { at }),
        1 => (1..6_usize).prop_map(|blocks| Op::Take { blocks }),
        1 => Just(Op::Give),
    ]
}

prop_compose! {
    fn config()(
        max_batch_tokens in 1..100_u32,
        chunk_tokens in 1..80_u32,
        max_running in 1..8_u32,
        max_waiting in 1..20_u32,
        prefix_cache in any::<bool>(),
    ) -> SchedulerConfig {
        SchedulerConfig { max_batch_tokens, chunk_tokens, max_running, max_waiting, prefix_cache }
    }
}

fn apply(cluster: &mut Cluster, op: Op) {
    let requests = cluster.requests.len();
    match op {
        Op::Submit { spec, disaggregated } => cluster.submit(spec, disaggregated),
        Op::StepPrefill => cluster.step_prefill(),
        Op::StepDecode => cluster.step_decode(),
        Op::FailPrefill { nth } => {
            let events = cluster.prefill.failing_step(nth);
            cluster.deliver(events);
        }
        Op::FailDecode { nth } => {
            let events = cluster.decode.failing_step(nth);
            cluster.deliver(events);
        }
        Op::HandOver => cluster.hand_over(),
        Op::Cancel { at } if requests > 0 => cluster.cancel(at % requests),
        Op::Replay { at } if requests > 0 => cluster.replay(at % requests),
        Op::Take { blocks } => {
            cluster.others.extend(cluster.decode.cache.reserve(blocks).into_iter().flatten())
        }
        Op::Give => cluster.others.clear(),
        Op::Cancel { .. } | Op::Replay { .. } => {}
    }
}

proptest! {
    #[test]
    fn every_stream_is_what_it_is_alone_and_nothing_is_lost_or_leaked(
        blocks in [6..24_u32, 6..24_u32],
        configs in [config(), config()],
        ops in prop::collection::vec(op(), 1..120),
    ) {
        let mut cluster = Cluster::new(blocks, configs);
        for op in ops {
            apply(&mut cluster, op);
        }
        cluster.settle();
    }
}
