//! What the service `Registry` speaks of: who a node is, and how it is.

use std::time::Duration;

use baton_types::{
    BlockHash, Generation, KvDtype, KvEvents, KvLayout, ModelId, NodeHello, NodeId, NodeLoad, Role,
    StepReport, StepShape,
};

use super::{ConvertError, at_most, micros, numerics_id, present, short, to_bytes};
use crate::node::v1 as node;

/// The most step reports in a heartbeat.
const MAX_STEP_REPORTS: usize = 4096;
/// Of nodes that don't say: those of the versions before ran with this unless told otherwise.
const UNSAID_MAX_BATCH_TOKENS: u32 = 512;
const UNSAID_CHUNK_TOKENS: u32 = 256;
const UNSAID_MAX_RUNNING: u32 = 64;

impl From<KvLayout> for node::KvLayout {
    fn from(layout: KvLayout) -> Self {
        let dtype = match layout.dtype {
            KvDtype::F16 => node::KvDtype::F16,
            KvDtype::F32 => node::KvDtype::F32,
        };
        node::KvLayout {
            layers: layout.layers,
            kv_heads: layout.kv_heads,
            head_dim: layout.head_dim,
            block_tokens: layout.block_tokens,
            dtype: dtype.into(),
        }
    }
}

impl TryFrom<node::KvLayout> for KvLayout {
    type Error = ConvertError;

    fn try_from(layout: node::KvLayout) -> Result<Self, ConvertError> {
        let dtype = match layout.dtype() {
            node::KvDtype::F16 => KvDtype::F16,
            node::KvDtype::F32 => KvDtype::F32,
            node::KvDtype::Unspecified => {
                return Err(ConvertError::Unknown { field: "layout.dtype", given: layout.dtype });
            }
        };
        let node::KvLayout { layers, kv_heads, head_dim, block_tokens, .. } = layout;
        let layout = KvLayout { layers, kv_heads, head_dim, block_tokens, dtype };
        layout.validate()?;
        Ok(layout)
    }
}

impl From<Role> for node::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Prefill => node::Role::Prefill,
            Role::Decode => node::Role::Decode,
        }
    }
}

impl TryFrom<node::Role> for Role {
    type Error = ConvertError;

    fn try_from(role: node::Role) -> Result<Self, ConvertError> {
        match role {
            node::Role::Prefill => Ok(Role::Prefill),
            node::Role::Decode => Ok(Role::Decode),
            node::Role::Unspecified => {
                Err(ConvertError::Unknown { field: "role", given: role.into() })
            }
        }
    }
}

/// The hello without the model's language, which is converted on its own.
impl From<NodeHello> for node::Hello {
    fn from(hello: NodeHello) -> Self {
        node::Hello {
            protocol_version: hello.protocol_version,
            node: hello.node.to_string(),
            generation: hello.generation.0,
            role: node::Role::from(hello.role).into(),
            model: hello.model.to_string(),
            numerics_id: to_bytes(hello.numerics.0),
            layout: Some(hello.layout.into()),
            max_context: hello.max_context,
            total_blocks: hello.total_blocks,
            max_batch_tokens: hello.max_batch_tokens,
            chunk_tokens: hello.chunk_tokens,
            max_running: hello.max_running,
            weights_bytes: hello.weights_bytes,
            control_address: hello.control_address,
            data_address: hello.data_address,
            metrics_address: hello.metrics_address,
            text: None,
        }
    }
}

impl TryFrom<node::Hello> for NodeHello {
    type Error = ConvertError;

    fn try_from(hello: node::Hello) -> Result<Self, ConvertError> {
        let role = node::Role::try_from(hello.role)
            .map_err(|_| ConvertError::Unknown { field: "role", given: hello.role })?;
        Ok(NodeHello {
            protocol_version: hello.protocol_version,
            node: NodeId(short("node", hello.node)?.into()),
            generation: Generation(hello.generation),
            role: role.try_into()?,
            model: ModelId(short("model", hello.model)?.into()),
            numerics: numerics_id(&hello.numerics_id)?,
            layout: present("layout", hello.layout)?.try_into()?,
            max_context: hello.max_context,
            total_blocks: hello.total_blocks,
            max_batch_tokens: said_or(hello.max_batch_tokens, UNSAID_MAX_BATCH_TOKENS),
            chunk_tokens: said_or(hello.chunk_tokens, UNSAID_CHUNK_TOKENS),
            max_running: said_or(hello.max_running, UNSAID_MAX_RUNNING),
            weights_bytes: hello.weights_bytes,
            control_address: short("control_address", hello.control_address)?,
            data_address: short("data_address", hello.data_address)?,
            metrics_address: short("metrics_address", hello.metrics_address)?,
        })
    }
}

fn said_or(said: u32, unsaid: u32) -> u32 {
    if said == 0 { unsaid } else { said }
}

/// A node's word of itself.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Heartbeat {
    pub load: NodeLoad,
    /// Of the steps since the one before.
    pub reports: Vec<StepReport>,
    /// What changed in its cache, if anything did.
    pub events: Option<KvEvents>,
    /// The step under way, and how long it has been that.
    pub under_way: Option<StepReport>,
}

/// A heartbeat for the wire,
pub fn heartbeat(heartbeat: Heartbeat) -> node::Heartbeat {
    let Heartbeat { load, reports, events, under_way } = heartbeat;
    node::Heartbeat {
        steps: load.steps,
        running: load.running,
        waiting: load.waiting,
        handing_over: load.handing_over,
        free_blocks: load.free_blocks,
        cached_blocks: load.cached_blocks,
        queued_tokens: load.queued_tokens,
        context_tokens: load.context_tokens,
        draining: load.draining,
        step_reports: reports.into_iter().map(node::StepReport::from).collect(),
        kv_events: events.map(node::KvEvents::from),
        step_under_way: under_way.map(node::StepReport::from),
    }
}

/// and from it.
pub fn from_heartbeat(heartbeat: node::Heartbeat) -> Result<Heartbeat, ConvertError> {
    at_most("step_reports", heartbeat.step_reports.len(), MAX_STEP_REPORTS)?;
    let load = NodeLoad {
        steps: heartbeat.steps,
        running: heartbeat.running,
        waiting: heartbeat.waiting,
        handing_over: heartbeat.handing_over,
        free_blocks: heartbeat.free_blocks,
        cached_blocks: heartbeat.cached_blocks,
        queued_tokens: heartbeat.queued_tokens,
        context_tokens: heartbeat.context_tokens,
        draining: heartbeat.draining,
    };
    let reports = heartbeat.step_reports.into_iter().map(StepReport::try_from);
    let reports = reports.collect::<Result<_, _>>()?;
    let events = heartbeat.kv_events.map(KvEvents::try_from).transpose()?;
    let under_way = heartbeat.step_under_way.map(StepReport::try_from).transpose()?;
    Ok(Heartbeat { load, reports, events, under_way })
}

impl From<KvEvents> for node::KvEvents {
    fn from(events: KvEvents) -> Self {
        let KvEvents { since, upto, stored, removed } = events;
        node::KvEvents { since, upto, stored: packed(&stored), removed: packed(&removed) }
    }
}

impl TryFrom<node::KvEvents> for KvEvents {
    type Error = ConvertError;

    fn try_from(events: node::KvEvents) -> Result<Self, ConvertError> {
        let node::KvEvents { since, upto, stored, removed } = events;
        if let Some(since) = since.filter(|since| *since > upto) {
            return Err(ConvertError::TooLarge {
                field: "kv_events.since",
                given: since,
                max: upto,
            });
        }
        let stored = unpacked("kv_events.stored", &stored)?;
        let removed = unpacked("kv_events.removed", &removed)?;
        Ok(KvEvents { since, upto, stored, removed })
    }
}

fn packed(hashes: &[BlockHash]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.0.to_be_bytes()).collect()
}

fn unpacked(field: &'static str, bytes: &[u8]) -> Result<Vec<BlockHash>, ConvertError> {
    let (hashes, rest) = bytes.as_chunks();
    if !rest.is_empty() {
        let expected = bytes.len().next_multiple_of(16);
        return Err(ConvertError::Length { field, given: bytes.len(), expected });
    }
    Ok(hashes.iter().map(|bytes| BlockHash(u128::from_be_bytes(*bytes))).collect())
}

impl From<StepReport> for node::StepReport {
    fn from(report: StepReport) -> Self {
        let StepReport { shape, duration } = report;
        node::StepReport {
            prefill_tokens: shape.prefill_tokens,
            prefill_attention: shape.prefill_attention,
            decode_batch: shape.decode_batch,
            decode_context: shape.decode_context,
            duration_us: micros(duration),
        }
    }
}

impl TryFrom<node::StepReport> for StepReport {
    type Error = ConvertError;

    fn try_from(report: node::StepReport) -> Result<Self, ConvertError> {
        let attention = report.prefill_attention;
        if !attention.is_finite() || attention < 0.0 {
            let (field, given) = ("step_reports.prefill_attention", attention.to_string());
            return Err(ConvertError::NotAQuantity { field, given });
        }
        let shape = StepShape {
            prefill_tokens: report.prefill_tokens,
            prefill_attention: attention,
            decode_batch: report.decode_batch,
            decode_context: report.decode_context,
        };
        Ok(StepReport { shape, duration: Duration::from_micros(report.duration_us) })
    }
}

#[cfg(test)]
mod tests {
    use baton_types::NumericsId;

    use super::*;

    fn hello() -> NodeHello {
        NodeHello {
            protocol_version: 1,
            node: "d0".into(),
            generation: Generation(77),
            role: Role::Decode,
            model: "m".into(),
            numerics: NumericsId(3 << 120),
            layout: KvLayout {
                layers: 2,
                kv_heads: 1,
                head_dim: 64,
                block_tokens: 16,
                dtype: KvDtype::F32,
            },
            max_context: 2048,
            total_blocks: 9,
            max_batch_tokens: 128,
            chunk_tokens: 32,
            max_running: 8,
            weights_bytes: 1 << 40,
            control_address: "http://127.0.0.1:1".to_owned(),
            data_address: "127.0.0.1:2".to_owned(),
            metrics_address: String::new(),
        }
    }

    #[test]
    fn hellos_round_trip() {
        assert_eq!(NodeHello::try_from(node::Hello::from(hello())), Ok(hello()));
    }

    #[test]
    fn nodes_of_the_version_before_have_its_budget() {
        let older =
            node::Hello { max_batch_tokens: 0, chunk_tokens: 0, max_running: 0, ..hello().into() };
        let expected =
            NodeHello { max_batch_tokens: 512, chunk_tokens: 256, max_running: 64, ..hello() };
        assert_eq!(NodeHello::try_from(older), Ok(expected));
    }

    #[test]
    fn broken_hellos_are_refused_by_field() {
        let broken = |mend: fn(&mut node::Hello)| {
            let mut wire = node::Hello::from(hello());
            mend(&mut wire);
            NodeHello::try_from(wire).expect_err("broken")
        };
        let unknown = |given| ConvertError::Unknown { field: "role", given };
        assert_eq!(broken(|wire| wire.role = 0), unknown(0));
        assert_eq!(broken(|wire| wire.role = 9), unknown(9));
        assert_eq!(broken(|wire| wire.layout = None), ConvertError::Missing { field: "layout" });
        let name = broken(|wire| wire.node = "n".repeat(600));
        assert_eq!(name, ConvertError::TooLong { field: "node", given: 600, max: 512 });
        assert_eq!(broken(|wire| wire.numerics_id.clear()).field(), "numerics_id");
    }

    #[test]
    fn heartbeats_round_trip_and_nonsense_is_refused() {
        let load = NodeLoad { steps: 5, free_blocks: 3, draining: true, ..NodeLoad::default() };
        let duration = Duration::from_micros(1500);
        let shape = StepShape { decode_batch: 2, ..StepShape::default() };
        let report = StepReport { shape, duration };
        let events = KvEvents {
            since: Some(3),
            upto: 7,
            stored: vec![BlockHash(1), BlockHash(u128::MAX)],
            removed: vec![BlockHash(2)],
        };
        let under_way = Some(report);
        let beat =
            Heartbeat { load, reports: vec![report], events: Some(events.clone()), under_way };
        assert_eq!(from_heartbeat(heartbeat(beat.clone())), Ok(beat.clone()));
        let quiet = Heartbeat { load, ..Heartbeat::default() };
        assert_eq!(from_heartbeat(heartbeat(quiet.clone())), Ok(quiet));

        let shape = StepShape { prefill_attention: f64::NAN, ..shape };
        let nan = StepReport { shape, ..report };
        let error = from_heartbeat(heartbeat(Heartbeat { reports: vec![nan], ..beat.clone() }))
            .unwrap_err();
        assert_eq!(error.field(), "step_reports.prefill_attention");
        let error = from_heartbeat(heartbeat(Heartbeat { under_way: Some(nan), ..beat.clone() }));
        assert!(error.is_err());
        let backwards = KvEvents { upto: 2, ..events };
        let backwards = Heartbeat { events: Some(backwards), ..beat.clone() };
        let error = from_heartbeat(heartbeat(backwards)).unwrap_err();
        assert_eq!(error.to_string(), "kv_events.since is 3; at most 2 is allowed");
        let mut halved = heartbeat(beat.clone());
        halved.kv_events.as_mut().unwrap().removed.pop();
        let error = from_heartbeat(halved).unwrap_err();
        assert_eq!(error.to_string(), "kv_events.removed has 15 bytes, expected 16");
        let many = heartbeat(Heartbeat { reports: vec![report; 5000], ..beat });
        assert!(matches!(from_heartbeat(many), Err(ConvertError::TooMany { given: 5000, .. })));
    }

    #[test]
    fn layouts_are_validated() {
        let wire = node::KvLayout {
            layers: 1,
            kv_heads: 1,
            head_dim: 64,
            block_tokens: 7,
            dtype: node::KvDtype::F16.into(),
        };
        assert!(matches!(KvLayout::try_from(wire), Err(ConvertError::Layout(_))));
        let wire = node::KvLayout { dtype: 9, block_tokens: 16, ..wire };
        assert!(matches!(KvLayout::try_from(wire), Err(ConvertError::Unknown { .. })));
    }
}
