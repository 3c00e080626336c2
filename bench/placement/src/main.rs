//! What a decision costs, each beside what pairing every node with every other costs. Prints
//! measurements, one JSON object a line.

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use baton_policy::{
    ClusterView, Decision, LatencyFit, PolicyConfig, PromptHashes, RequestView, decide,
    rebalance::{RebalanceConfig, Rebalancer},
};
use baton_types::{
    BlockHash, Generation, KvDtype, KvEvents, KvLayout, NodeHello, NodeLoad, NumericsId, Role, Slo,
    Time,
};
use rand_core::{RngCore, impls};

const NUMERICS: NumericsId = NumericsId(1);
const BLOCK: u32 = 16;
const PROMPT: u32 = 755;

struct Draws(u64);

impl RngCore for Draws {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        self.0 ^ (self.0 >> 29)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        impls::fill_bytes_via_next(self, dest);
    }
}

/// Busy nodes, a tenth of which have half of the prompt.
fn view(nodes: u32, hashes: &[BlockHash]) -> ClusterView {
    let mut view = ClusterView::default();
    let layout = KvLayout {
        layers: 32,
        kv_heads: 8,
        head_dim: 128,
        block_tokens: BLOCK,
        dtype: KvDtype::F16,
    };
    let mut draws = Draws(1);
    for (role, letter) in [(Role::Prefill, 'p'), (Role::Decode, 'd')] {
        for number in 0..nodes {
            let hello = NodeHello {
                protocol_version: 1,
                node: format!("{letter}{number}").as_str().into(),
                generation: Generation(1),
                role,
                model: "m".into(),
                numerics: NUMERICS,
                layout,
                max_context: 8192,
                total_blocks: 10_000,
                max_batch_tokens: 512,
                max_running: 64,
                weights_bytes: 0,
                chunk_tokens: 512,
                control_address: String::new(),
                data_address: String::new(),
                metrics_address: String::new(),
            };
            view.join(&hello, LatencyFit::default());
            let running = draws.next_u32() % 64;
            let load = NodeLoad {
                running,
                queued_tokens: u64::from(draws.next_u32() % 4000),
                context_tokens: u64::from(running) * 800,
                free_blocks: 5000,
                ..NodeLoad::default()
            };
            view.observe(&hello.node, hello.generation, load);
        }
    }
    let cached = &hashes[..hashes.len() / 2];
    let nodes: Vec<_> = view.prefill.iter().chain(&view.decode).step_by(10).collect();
    let names: Vec<_> = nodes.into_iter().map(|view| view.node.clone()).collect();
    for node in names {
        let stored = cached.to_vec();
        let snapshot = KvEvents { since: None, upto: 1, stored, removed: Vec::new() };
        let heard = view.observe_events(&node, Generation(1), Some(&snapshot));
        heard.expect("a snapshot has no gap");
    }
    view
}

/// The median of means, of `calls` each.
fn time(calls: u32, mut call: impl FnMut()) -> Duration {
    let mut times: Vec<Duration> = (0..15)
        .map(|_| {
            let begin = Instant::now();
            (0..calls).for_each(|_| call());
            begin.elapsed() / calls
        })
        .collect();
    times.sort_unstable();
    times[times.len() / 2]
}

#[allow(clippy::print_stdout, reason = "it is what a benchmark does")]
fn main() {
    let hashes: Vec<BlockHash> = (0..PROMPT / BLOCK).map(|at| BlockHash(at.into())).collect();
    let ms = |ms| Some(Duration::from_millis(ms));
    let request = RequestView {
        tokens: PROMPT,
        max_new_tokens: 200,
        slo: Slo { ttft: ms(250), tpot: ms(20) },
        hashes: vec![PromptHashes {
            numerics: NUMERICS,
            block_tokens: BLOCK,
            hashes: hashes.clone().into(),
        }],
        ..RequestView::new("m".into())
    };
    for nodes in [64, 1000] {
        let view = view(nodes, &hashes);
        let decide = |calls, shortlist| {
            let config = PolicyConfig { shortlist, ..PolicyConfig::default() };
            let mut draws = Draws(2);
            time(calls, || {
                black_box(decide(&config, &view, black_box(&request), Time::ZERO, &mut draws));
            })
        };
        let short = decide(100, PolicyConfig::default().shortlist);
        let every = decide(2, usize::MAX);
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        let line = serde_json::json!({
            "name": format!("place_{nodes}x{nodes}"), "value": us(short), "unit": "us",
            "anchor": "every pair", "ratio": us(short) / us(every),
        });
        println!("{line}");
        if nodes == 64 {
            let (mut view, sequences) = running(view, &request);
            let look = time(5, || {
                let mut rebalancer = Rebalancer::new(RebalanceConfig::default());
                black_box(rebalancer.look(&mut view, Some(&request), Time::ZERO));
            });
            let line = serde_json::json!({
                "name": format!("rebalance_{nodes}x{}", sequences / nodes), "value": us(look),
                "unit": "us", "anchor": format!("place_{nodes}x{nodes}"), "ratio": us(look) / us(short),
            });
            println!("{line}");
        }
    }
}

/// With as many requests running as there is room for, seventy on each node at most.
fn running(mut view: ClusterView, request: &RequestView) -> (ClusterView, u32) {
    let (config, mut draws, mut sequences) = (PolicyConfig::default(), Draws(3), 0);
    let nodes = view.decode.len() as u32;
    let decode: Vec<_> = view.decode.iter().map(|node| node.node.clone()).collect();
    for node in decode {
        let idle = NodeLoad { free_blocks: 10_000, ..NodeLoad::default() };
        view.observe(&node, Generation(1), idle);
    }
    for _ in 0..70 * nodes {
        let request = RequestView {
            slo: Slo { ttft: None, tpot: Some(Duration::from_millis(20)) },
            ..request.clone()
        };
        if let Decision::Place(placement) = decide(&config, &view, &request, Time::ZERO, &mut draws)
        {
            let id = view.reserve(&request, &placement, Time::ZERO);
            view.first_token(id, Time::ZERO);
            view.handed_over(id);
            sequences += 1;
        }
    }
    (view, sequences)
}
