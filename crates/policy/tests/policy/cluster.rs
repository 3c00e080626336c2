//! Small clusters and requests to decide about.

use baton_policy::{
    Class, ClassId, ClusterView, Decision, LatencyFit, Placement, PolicyConfig, PromptHashes,
    RequestView, Service, decide,
};
use baton_types::{
    BlockHash, Generation, KvDtype, KvEvents, KvLayout, NodeHello, NodeLoad, NumericsId, Role, Time,
};
use rand_core::{RngCore, impls};

pub(crate) const BLOCK: u32 = 16;
pub(crate) const NUMERICS: NumericsId = NumericsId(1);
pub(crate) const LAYOUT: KvLayout =
    KvLayout { layers: 4, kv_heads: 1, head_dim: 16, block_tokens: BLOCK, dtype: KvDtype::F16 };

/// Of a class nobody waits for.
pub(crate) const BATCH: Class = Class { id: ClassId(1), priority: 0, service: Service::Batch };

/// SplitMix64.
pub(crate) struct Draws(pub(crate) u64);

impl RngCore for Draws {
    fn next_u32(&mut self) -> u32 {
        (self.next_u64() >> 32) as u32
    }

    fn next_u64(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn fill_bytes(&mut self, dest: &mut [u8]) {
        impls::fill_bytes_via_next(self, dest);
    }
}

/// A node of model `m` with 100 blocks and a context of 1000 tokens.
pub(crate) fn hello(name: &str, role: Role) -> NodeHello {
    NodeHello {
        protocol_version: 1,
        node: name.into(),
        generation: Generation(1),
        role,
        model: "m".into(),
        numerics: NUMERICS,
        layout: LAYOUT,
        max_context: 1000,
        total_blocks: 100,
        max_batch_tokens: 512,
        chunk_tokens: 256,
        max_running: 64,
        weights_bytes: 0,
        control_address: String::new(),
        data_address: String::new(),
        metrics_address: String::new(),
    }
}

/// Nodes whose names begin with `p` prefill, the others decode.
pub(crate) fn cluster(names: &[&str]) -> ClusterView {
    let mut view = ClusterView::default();
    for name in names {
        let role = if name.starts_with('p') { Role::Prefill } else { Role::Decode };
        view.join(&hello(name, role), LatencyFit::default());
    }
    view
}

/// A prompt whose first block is named `first`, the second `first + 1`, and so on.
pub(crate) fn request(tokens: u32, max_new_tokens: u32, first: u128) -> RequestView {
    let hashes = (0..u128::from(tokens / BLOCK)).map(|index| BlockHash(first + index)).collect();
    RequestView {
        tokens,
        max_new_tokens,
        hashes: vec![PromptHashes { numerics: NUMERICS, block_tokens: BLOCK, hashes }],
        ..RequestView::new("m".into())
    }
}

pub(crate) fn ask(view: &ClusterView, request: &RequestView, seed: u64) -> Decision {
    decide(&PolicyConfig::default(), view, request, Time::ZERO, &mut Draws(seed))
}

#[track_caller]
pub(crate) fn placed(decision: Decision) -> Placement {
    match decision {
        Decision::Place(placement) => placement,
        other => panic!("expected a placement, got {other:?}"),
    }
}

/// A node with nothing to do.
pub(crate) fn idle() -> NodeLoad {
    NodeLoad { free_blocks: 100, ..NodeLoad::default() }
}

/// The placement's nodes have the prompt's blocks, and nothing else.
pub(crate) fn store(view: &mut ClusterView, placement: &Placement, prompt: &RequestView) {
    let stored = prompt.hashes[0].hashes.to_vec();
    let snapshot = KvEvents { since: None, upto: 1, stored, removed: Vec::new() };
    for (_, placed) in placement.placed() {
        let heard = view.observe_events(&placed.node, placed.generation, Some(&snapshot));
        heard.expect("a snapshot has no gap");
    }
}
