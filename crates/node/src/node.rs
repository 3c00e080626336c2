//! One node's parts, shared by whatever serves them.

use std::{fmt, sync::Arc, time::Duration};

use baton_device::Arena;
use baton_grammar::Grammars;
use baton_kv_cache::KvCache;
use baton_kv_transfer::{PeerIdentity, SharedIdentity};
use baton_proto::{convert, node::v1::Heartbeat};
use baton_scheduler::{EngineInfo, Goal, Start, Submission};
use baton_text::TextAssets;
use baton_types::{Constraint, Generation, NodeId, NodeLoad, Role, SequenceSpec, StepReport};
use tokio::sync::watch;

use crate::{
    clock::Clock,
    config::{ConfigError, NodeConfig},
    engine::{self, LoadError, Loaded},
    error::RunError,
    gate::Gate,
    metrics::NodeMetrics,
    ops::Operable,
    registration::{Pulse, Told},
    steps::Steps,
};

/// A loaded node: engine, pool and step loop run; nothing listens yet.
pub struct Node {
    pub id: NodeId,
    identity: SharedIdentity,
    /// The role that the router wants it to have.
    pub(crate) wanted_role: watch::Sender<Role>,
    /// The incarnation that a router wants to be empty.
    pub(crate) drained: watch::Sender<Option<Generation>>,
    pub model: String,
    pub info: EngineInfo,
    pub arena: Arc<Arena>,
    pub cache: KvCache,
    pub steps: Steps,
    pub metrics: NodeMetrics,
    pub gate: Gate,
    pub config: NodeConfig,
    pub(crate) text: Arc<TextAssets>,
    pub(crate) weights_bytes: u64,
    pub(crate) grammars: Arc<Grammars>,
}

#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error("loading the engine panicked")]
    LoadPanicked,
    #[error("the step thread can't be started: {0}")]
    Thread(#[from] std::io::Error),
}

impl Node {
    /// Validates the configuration, loads the engine and starts the step loop.
    pub async fn load(config: NodeConfig, role: Role) -> Result<Arc<Node>, StartError> {
        config.validate()?;
        let id = NodeId(config.name_or(role, rand::random()).into());
        let generation = Generation(rand::random());
        let model = config.model_name();
        let to_load = config.clone();
        let loading = tokio::task::spawn_blocking(move || engine::load(&to_load));
        let Loaded { engine, arena, text, weights_bytes } =
            loading.await.map_err(|_panicked| StartError::LoadPanicked)??;
        let info = engine.info().clone();
        let cache = KvCache::new(arena.blocks(), info.layout.block_tokens);
        let metrics = NodeMetrics::new(&model);
        let steps = Steps::start(
            config.scheduler,
            engine,
            cache.clone(),
            Clock::start(),
            metrics.steps().clone(),
        )?;
        let identity = PeerIdentity {
            node: id.clone(),
            generation,
            role,
            numerics: info.numerics,
            layout: info.layout,
        };
        let identity = SharedIdentity::from(identity);
        let gate = Gate::new(identity.clone(), model.clone());
        tracing::info!(
            node = %id, %generation, %role, model, blocks = arena.blocks(), layout = %info.layout,
            numerics = %info.numerics, "loaded"
        );
        let grammars = Arc::new(Grammars::of_assets(Arc::clone(&text)));
        Ok(Arc::new(Node {
            grammars,
            id,
            identity,
            wanted_role: watch::Sender::new(role),
            drained: watch::Sender::new(None),
            model,
            info,
            arena,
            cache,
            steps,
            metrics,
            gate,
            config,
            text,
            weights_bytes,
        }))
    }
}

impl Node {
    /// A sequence's grammar, compiled, if it has one.
    pub async fn constraint(
        &self,
        spec: &SequenceSpec,
    ) -> Result<Option<Box<dyn Constraint>>, RunError> {
        let Some(grammar) = spec.sampling.grammar.clone() else { return Ok(None) };
        let grammars = Arc::clone(&self.grammars);
        let compiling = tokio::task::spawn_blocking(move || grammars.compile(&grammar));
        let compiled = compiling.await.map_err(|_panicked| RunError::GrammarPanicked)?;
        let refuse = |error| RunError::invalid("sequence.sampling.grammar", error);
        Ok(Some(Box::new(compiled.map_err(refuse)?)))
    }

    /// A sequence that is computed here from its tokens.
    pub async fn submission(&self, spec: SequenceSpec, goal: Goal) -> Result<Submission, RunError> {
        let constraint = self.constraint(&spec).await?;
        Ok(Submission { spec, start: Start::Tokens, goal, constraint })
    }

    /// How the node introduces itself: to routers, and to those it moves pages with.
    pub fn identity(&self) -> &SharedIdentity {
        &self.identity
    }

    /// Drawn when it started or took its role.
    pub fn generation(&self) -> Generation {
        self.identity.get().generation
    }

    pub fn role(&self) -> Role {
        self.identity.get().role
    }
}

/// The step thread ends with its node.
impl Drop for Node {
    fn drop(&mut self) {
        self.steps.stop();
    }
}

impl Pulse for Arc<Node> {
    fn heartbeat(&self, told: Told) -> (Heartbeat, Told) {
        let (load, usage) = (self.steps.load(), self.cache.usage());
        let (reports, steps) = self.steps.reports(told.steps);
        let events = Some(self.cache.events(told.events)).filter(|events| !events.is_empty());
        let upto = events.as_ref().map(|events| events.upto);
        let told = Told { steps, events: upto.or(told.events) };
        let load = NodeLoad {
            steps,
            running: load.running,
            waiting: load.waiting,
            handing_over: self.metrics.transfers().held(),
            free_blocks: usage.free,
            cached_blocks: usage.cached,
            queued_tokens: load.queued_tokens,
            context_tokens: load.context_tokens,
            draining: self.gate.is_draining() || *self.drained.borrow() == Some(self.generation()),
        };
        let under_way = self.steps.under_way();
        (convert::heartbeat(convert::Heartbeat { load, reports, events, under_way }), told)
    }

    fn take_role(&self, role: Role) {
        self.wanted_role.send_replace(role);
    }

    fn drain(&self, drains: bool) {
        self.drained.send_replace(drains.then(|| self.generation()));
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Node")
            .field("id", &self.id)
            .field("identity", &self.identity.get())
            .field("model", &self.model)
            .finish_non_exhaustive()
    }
}

/// No step takes so long; routers, which know how long such steps take, pass the node over much earlier.
const HANGS_AFTER: Duration = Duration::from_secs(60);

/// Why a node with this step under way should be started again, if it should.
fn hangs(StepReport { duration, .. }: StepReport) -> Option<String> {
    (duration >= HANGS_AFTER).then(|| format!("a step has taken {duration:.0?} and isn't over"))
}

/// A node as its operators see it.
pub(crate) struct NodeOps {
    pub(crate) node: Arc<Node>,
    /// How many routers know the node; none: it has none.
    pub(crate) known_to: Option<watch::Receiver<usize>>,
}

impl Operable for NodeOps {
    fn metrics(&self) -> String {
        self.node.metrics.render(self.node.steps.load(), &self.node.cache.usage())
    }

    fn unhealthy(&self) -> Option<String> {
        if self.node.steps.has_ended() {
            return Some("the step loop has ended".to_owned());
        }
        self.node.steps.under_way().and_then(hangs)
    }

    fn unready(&self) -> Option<String> {
        if self.node.gate.is_draining() {
            return Some("draining".to_owned());
        }
        if self.known_to.as_ref().is_some_and(|routers| *routers.borrow() == 0) {
            return Some("not joined to a router yet".to_owned());
        }
        self.unhealthy()
    }
}

#[cfg(test)]
mod tests {
    use baton_types::StepShape;

    use super::*;

    #[test]
    fn a_node_whose_step_does_not_end_is_to_be_started_again() {
        let after = |seconds| {
            let duration = Duration::from_secs(seconds);
            hangs(StepReport { shape: StepShape::default(), duration })
        };
        assert_eq!(after(59), None);
        assert_eq!(after(75).as_deref(), Some("a step has taken 75s and isn't over"));
    }
}
