//! Nodes and their steps, as whoever runs a cluster sees them.

use std::time::Duration;

use baton_types::{KvDtype, KvLayout, NodeHello, NodeLoad, Role, StepReport, StepShape};

use super::{ConvertError, micros};
use crate::v1;

/// A node spoke.
pub fn node_report(
    hello: &NodeHello,
    load: &NodeLoad,
    steps: &[StepReport],
) -> v1::WatchNodesResponse {
    v1::WatchNodesResponse {
        node: Some(hello.into()),
        running: load.running,
        waiting: load.waiting,
        handing_over: load.handing_over,
        steps: steps.iter().map(v1::Step::from).collect(),
    }
}

impl From<&NodeHello> for v1::Node {
    fn from(hello: &NodeHello) -> Self {
        let KvLayout { layers, kv_heads, head_dim, block_tokens, dtype } = hello.layout;
        let phase = v1::Phase::from(hello.role);
        let kv_dtype = match dtype {
            KvDtype::F16 => v1::KvDtype::F16,
            KvDtype::F32 => v1::KvDtype::F32,
        };
        v1::Node {
            name: hello.node.to_string(),
            phase: phase.into(),
            model: hello.model.to_string(),
            numerics_id: hello.numerics.to_string(),
            layers,
            kv_heads,
            head_dim,
            block_tokens,
            kv_dtype: kv_dtype.into(),
            total_blocks: hello.total_blocks,
            max_context: hello.max_context,
            weights_bytes: hello.weights_bytes,
            max_batch_tokens: hello.max_batch_tokens,
            chunk_tokens: hello.chunk_tokens,
            max_running: hello.max_running,
        }
    }
}

impl From<Role> for v1::Phase {
    fn from(role: Role) -> Self {
        match role {
            Role::Prefill => v1::Phase::Prefill,
            Role::Decode => v1::Phase::Decode,
        }
    }
}

impl TryFrom<v1::Phase> for Role {
    type Error = ConvertError;

    fn try_from(phase: v1::Phase) -> Result<Self, ConvertError> {
        match phase {
            v1::Phase::Prefill => Ok(Role::Prefill),
            v1::Phase::Decode => Ok(Role::Decode),
            v1::Phase::Unspecified => {
                Err(ConvertError::Unknown { field: "phase", given: phase.into() })
            }
        }
    }
}

impl v1::Node {
    /// Which phase's, if this version knows it.
    pub fn role(&self) -> Result<Role, ConvertError> {
        let unknown = |_| ConvertError::Unknown { field: "node.phase", given: self.phase };
        self.phase().try_into().map_err(unknown)
    }

    pub fn layout(&self) -> Result<KvLayout, ConvertError> {
        let dtype = match self.kv_dtype() {
            v1::KvDtype::F16 => KvDtype::F16,
            v1::KvDtype::F32 => KvDtype::F32,
            v1::KvDtype::Unspecified => {
                return Err(ConvertError::Unknown { field: "node.kv_dtype", given: self.kv_dtype });
            }
        };
        let v1::Node { layers, kv_heads, head_dim, block_tokens, .. } = *self;
        let layout = KvLayout { layers, kv_heads, head_dim, block_tokens, dtype };
        layout.validate()?;
        Ok(layout)
    }
}

impl From<&StepReport> for v1::Step {
    fn from(report: &StepReport) -> Self {
        let StepReport { shape, duration } = report;
        v1::Step {
            prefill_tokens: shape.prefill_tokens,
            prefill_attention: shape.prefill_attention,
            decode_batch: shape.decode_batch,
            decode_context: shape.decode_context,
            duration_us: micros(*duration),
        }
    }
}

impl From<v1::Step> for StepReport {
    fn from(step: v1::Step) -> Self {
        let shape = StepShape {
            prefill_tokens: step.prefill_tokens,
            prefill_attention: step.prefill_attention,
            decode_batch: step.decode_batch,
            decode_context: step.decode_context,
        };
        StepReport { shape, duration: Duration::from_micros(step.duration_us) }
    }
}

#[cfg(test)]
mod tests {
    use baton_types::{Generation, NumericsId};

    use super::*;

    #[test]
    fn reports_tell_what_the_node_said() {
        let layout = KvLayout {
            layers: 2,
            kv_heads: 3,
            head_dim: 64,
            block_tokens: 16,
            dtype: KvDtype::F32,
        };
        let hello = NodeHello {
            protocol_version: 1,
            node: "d0".into(),
            generation: Generation(77),
            role: Role::Decode,
            model: "m".into(),
            numerics: NumericsId(3),
            layout,
            max_context: 2048,
            total_blocks: 9,
            max_batch_tokens: 128,
            chunk_tokens: 32,
            max_running: 8,
            weights_bytes: 5,
            control_address: String::new(),
            data_address: String::new(),
            metrics_address: String::new(),
        };
        let mut shape = StepShape::default();
        shape.add_prefill(5, 16);
        shape.add_decode(100);
        let step = StepReport { shape, duration: Duration::from_micros(77) };
        let load = NodeLoad { running: 1, waiting: 2, handing_over: 3, ..NodeLoad::default() };
        let report = node_report(&hello, &load, &[step]);
        let node = report.node.unwrap();
        assert_eq!((node.role(), node.layout()), (Ok(Role::Decode), Ok(layout)));
        assert_eq!((node.max_running, node.weights_bytes, node.total_blocks), (8, 5, 9));
        assert_eq!((report.running, report.waiting, report.handing_over), (1, 2, 3));
        assert_eq!(report.steps.into_iter().map(StepReport::from).collect::<Vec<_>>(), [step]);
        let later = v1::Node { phase: 9, kv_dtype: 9, ..node };
        assert_eq!(later.role().unwrap_err().field(), "node.phase");
        assert_eq!(later.layout().unwrap_err().field(), "node.kv_dtype");
    }
}
