use serde::{Deserialize, Serialize};

use crate::{Generation, KvLayout, ModelId, NodeId, NumericsId, Role};

/// How a node introduces itself to a router. Fixed for a generation's life.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeHello {
    /// Of the protocol between routers and nodes.
    pub protocol_version: u32,
    pub node: NodeId,
    pub generation: Generation,
    pub role: Role,
    pub model: ModelId,
    pub numerics: NumericsId,
    pub layout: KvLayout,
    /// The longest sequence, in tokens, prompt and output together.
    pub max_context: u32,
    /// Size of the KV pool.
    pub total_blocks: u32,
    /// The most tokens a step computes, of all sequences.
    pub max_batch_tokens: u32,
    /// The most tokens of one prompt that a step computes, if there is room for as many.
    pub chunk_tokens: u32,
    /// The most sequences of a batch.
    pub max_running: u32,
    /// Memory that the weights take; 0: none, or not said.
    pub weights_bytes: u64,
    /// `http://host:port` of its gRPC services.
    pub control_address: String,
    /// `host:port` of its page transfer; empty when nobody pulls from it.
    pub data_address: String,
    /// `host:port` of `/metrics`, `/health` and `/ready`.
    pub metrics_address: String,
}

/// What a node says of itself in each heartbeat.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeLoad {
    /// Steps since the node started; a node with work whose count stands still is stuck.
    pub steps: u64,
    /// Sequences in the batch,
    pub running: u32,
    /// and in the queue before it.
    pub waiting: u32,
    /// Sequences held for a puller (prefill), or being pulled (decode).
    pub handing_over: u32,
    pub free_blocks: u32,
    /// Free only because nobody uses them: counted in `free_blocks` too.
    pub cached_blocks: u32,
    /// Prompt tokens, waiting or running, that have not been computed.
    pub queued_tokens: u64,
    /// Tokens in the caches of running sequences.
    pub context_tokens: u64,
    pub draining: bool,
}
