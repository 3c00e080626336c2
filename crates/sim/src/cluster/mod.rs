//! The event loop, and what of the cluster isn't a production part: the glue between them.
//!
//! Each file holds what one service of the binaries does: `requests` and `placing` the router's state
//! machine of a request, `members` its registry, `steps` a node's step thread, `prefill` and `decode`
//! the roles' `Run` calls, `transfers` and `breaks` the page transfer's drivers, `faults` what goes
//! wrong.
//!
//! **Invariants:** every offered request ends exactly once (`no-lost-request`), and when nothing runs
//! any more every pool is whole (`no-leak`); a run checks both.

mod breaks;
mod decode;
mod event;
mod faults;
mod members;
mod moving;
mod placing;
mod prefill;
mod requests;
mod roles;
mod scaling;
mod steps;
mod transfers;

use std::{sync::Arc, time::Duration};

use baton_kv_cache::Usage;
use baton_membership::Members;
use baton_policy::{Placer, advice::Traffic, rebalance::Rebalancer};
use baton_scheduler::{EngineInfo, Sampled};
use baton_transfer_protocol::{PageRun, SourceConfig};
use baton_types::{Generation, ModelId, NodeHello, NodeId, NumericsId, Role, Time};
use baton_workload::random::{Draws, Purpose, draws};

use self::{
    event::{Event, Queue},
    faults::Links,
    requests::Live,
    roles::Roles,
    scaling::Scaling,
    transfers::Transfers,
};
pub(crate) use event::Moving;
use moving::Departure;
pub(crate) use moving::MoveStats;
pub(crate) use transfers::TransferId;

use crate::{
    Map,
    network::Network,
    node::{Node, OverTime, Work},
    outcome::Outcome,
    report::{Report, ScalingReport, Switched},
    scenario::{Scenario, ScenarioError, Topology, seconds},
    workload::{Request, Trace, Workload},
};

const NUMERICS: NumericsId = NumericsId(1);
/// How long after the last request's end pools may take to be whole: leases end by themselves.
const SETTLING: Duration = Duration::from_secs(600);

/// Runs a scenario to the end of its last request, and of everything that followed from it.
pub fn simulate(scenario: &Scenario, trace: Option<&Arc<Trace>>) -> Result<Report, ScenarioError> {
    let mut simulation = prepared(scenario, trace)?;
    simulation.run();
    Ok(Report::new(scenario, simulation.finish()))
}

/// As [`simulate`], but ends early, with nothing, when so many have missed their targets that fewer than
/// `attainment` of the requests can meet them.
pub fn simulate_while(
    scenario: &Scenario,
    trace: Option<&Arc<Trace>>,
    attainment: f64,
) -> Result<Option<Report>, ScenarioError> {
    let mut simulation = prepared(scenario, trace)?;
    // Those that are left out aren't offered: it may be fewer.
    let recorded = trace.map_or(u64::MAX, |trace| trace.requests.len() as u64);
    let all = scenario.workload.requests.min(recorded);
    // What rounding takes from a whole number isn't a miss.
    simulation.most_misses = Some((all as f64 * (1.0 - attainment) + 1e-6) as u64);
    simulation.run();
    let is_known = simulation.misses_too_many();
    Ok((!is_known).then(|| Report::new(scenario, simulation.finish())))
}

/// At time zero, with nothing done.
fn prepared<'a>(
    scenario: &'a Scenario,
    trace: Option<&Arc<Trace>>,
) -> Result<Simulation<'a>, ScenarioError> {
    scenario.validate()?;
    let max_context = scenario.cluster.model.max_context;
    let (slo, seed) = (scenario.slo, scenario.seed);
    let workload = Workload::new(&scenario.workload, slo, max_context, trace, seed)?;
    Ok(Simulation::new(scenario, workload))
}

/// A pool that isn't whole at the end (`no-leak`).
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Leak {
    pub node: String,
    pub held_blocks: u32,
    pub sequences: usize,
}

/// What a run leaves to be told.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) outcomes: Vec<Outcome>,
    pub(crate) nodes: Vec<Node>,
    pub(crate) ended: Time,
    pub(crate) over_context: u64,
    pub(crate) leaks: Vec<Leak>,
    pub(crate) reservations: usize,
    pub(crate) scaling: Option<ScalingReport>,
    pub(crate) moves: MoveStats,
    pub(crate) switched: Vec<Switched>,
    pub(crate) fragmented: f64,
    pub(crate) events: u64,
}

pub(crate) struct Simulation<'a> {
    scenario: &'a Scenario,
    now: Time,
    queue: Queue,
    events: u64,
    nodes: Vec<Node>,
    by_name: Map<NodeId, usize>,
    network: Network,
    links: Links,
    transfers: Transfers,
    // The router.
    model: ModelId,
    placer: Placer,
    members: Members,
    live: Map<u64, Box<Live>>,
    /// Deadlines of requests, which all have as long.
    deadlines: std::collections::VecDeque<(Time, u64)>,
    router_timer: Option<Time>,
    lease_timer: bool,
    scaling: Option<Scaling>,
    roles: Option<Roles>,
    rebalancer: Rebalancer,
    /// Places that sequences have left, until their nodes have given them up.
    departures: Map<Moving, Departure>,
    moves: MoveStats,
    /// Of decode pools, what is free and of no use.
    fragmented: OverTime,
    workload: Workload,
    next: Option<Request>,
    offered: u64,
    outcomes: Vec<Outcome>,
    misses: u64,
    /// After more misses nobody cares.
    most_misses: Option<u64>,
    last_ended: Time,
    policy_draws: Draws,
    noise_draws: Draws,
    move_draws: Draws,
    // Buffers, kept from step to step.
    said: Vec<baton_scheduler::Event>,
    sampled: Vec<Sampled>,
    run: PageRun,
}

impl<'a> Simulation<'a> {
    pub(crate) fn new(scenario: &'a Scenario, workload: Workload) -> Self {
        let cluster = &scenario.cluster;
        let info = EngineInfo {
            layout: cluster.model.layout(),
            numerics: NUMERICS,
            max_context: cluster.model.max_context,
            vocab: cluster.model.vocab,
        };
        let source = SourceConfig {
            lease: seconds(cluster.transfer.lease_s),
            park: seconds(cluster.transfer.park_s),
            ..SourceConfig::default()
        };
        let nodes: Vec<Node> = cluster
            .topology
            .names()
            .iter()
            .map(|name| {
                let (work, role) = match name.as_bytes()[0] {
                    b'p' => (Work::Prefill, Role::Prefill),
                    b'd' => (Work::Decode, Role::Decode),
                    _ => (Work::Both, Role::Decode),
                };
                let name = NodeId::from(name.as_str());
                Node::new(name, work, scenario.worker(role), info.clone(), source)
            })
            .collect();
        let seed = scenario.seed;
        let scaling = scenario.scaling.as_ref().map(|config| Scaling::new(config, &nodes));
        let mut simulation = Simulation {
            scenario,
            now: Time::ZERO,
            queue: Queue::default(),
            events: 0,
            by_name: Map::default(),
            network: Network::new(nodes.len(), cluster.network.bytes_per_second),
            nodes,
            links: Links::new(draws(seed, Purpose::Faults)),
            transfers: Transfers::default(),
            model: ModelId::from("model"),
            placer: Placer::new(scenario.policy),
            members: Members::new(seconds(cluster.membership.lease_s)),
            live: Map::default(),
            deadlines: std::collections::VecDeque::new(),
            router_timer: None,
            lease_timer: false,
            scaling,
            roles: scenario.roles.map(Roles::new),
            rebalancer: Rebalancer::new(scenario.rebalance),
            departures: Map::default(),
            moves: MoveStats::default(),
            fragmented: OverTime::default(),
            workload,
            next: None,
            offered: 0,
            outcomes: Vec::new(),
            misses: 0,
            most_misses: None,
            last_ended: Time::ZERO,
            policy_draws: draws(seed, Purpose::Policy),
            noise_draws: draws(seed, Purpose::Noise),
            move_draws: draws(seed, Purpose::Moves),
            said: Vec::new(),
            sampled: Vec::new(),
            run: PageRun { layer: 0, first_block: 0, checksums: Vec::new() },
        };
        simulation.placer.view_mut().link = scenario.link();
        if let Some(scaling) = &scenario.scaling {
            simulation.placer.view_mut().traffic = Traffic::new(scaling.advice.window);
        }
        if let Some(roles) = &scenario.roles {
            simulation.placer.view_mut().traffic = Traffic::new(roles.advice.window);
        }
        simulation.begin();
        simulation
    }

    /// Every worker is a member, idle; the first request is on its way.
    fn begin(&mut self) {
        for node in 0..self.nodes.len() {
            for (name, _) in self.faces(node) {
                self.by_name.insert(name, node);
            }
            if self.scaling.as_ref().is_some_and(|scaling| !scaling.begins(node)) {
                self.nodes[node].alive = false;
                continue;
            }
            self.join(node);
            let interval = seconds(self.scenario.cluster.membership.heartbeat_s);
            let phase = interval.mul_f64((node + 1) as f64 / self.nodes.len() as f64);
            let generation = self.nodes[node].generation;
            self.queue.push(self.now + phase, Event::Heartbeat { node, generation });
        }
        self.schedule_faults();
        if self.scaling.is_some() {
            self.queue.push(self.now, Event::Advise);
        }
        if self.roles.is_some() {
            self.queue.push(self.now, Event::Roles);
        }
        self.expect_moves();
        self.expect_arrival();
    }

    /// How a worker is known to the router: one that does both is a prefill and a decode node that
    /// work with nobody but each other.
    fn faces(&self, node: usize) -> Vec<(NodeId, Role)> {
        let Node { name, work, .. } = &self.nodes[node];
        match work {
            Work::Prefill => vec![(name.clone(), Role::Prefill)],
            Work::Decode => vec![(name.clone(), Role::Decode)],
            Work::Both => [("prefill", Role::Prefill), ("decode", Role::Decode)]
                .map(|(face, role)| (NodeId::from(format!("{name}/{face}").as_str()), role))
                .into(),
        }
    }

    fn hello(&self, node: usize, face: NodeId, role: Role) -> NodeHello {
        let model = &self.scenario.cluster.model;
        let Node { generation, work, .. } = self.nodes[node];
        NodeHello {
            protocol_version: 1,
            node: face,
            generation,
            role,
            model: self.model.clone(),
            numerics: match work {
                Work::Both => NumericsId(NUMERICS.0 + 1 + node as u128),
                Work::Prefill | Work::Decode => NUMERICS,
            },
            layout: model.layout(),
            max_context: model.max_context,
            max_batch_tokens: self.scenario.worker(role).scheduler.max_batch_tokens,
            chunk_tokens: self.scenario.worker(role).scheduler.chunk_tokens,
            max_running: self.scenario.worker(role).scheduler.max_running,
            weights_bytes: 0,
            total_blocks: self.scenario.worker(role).kv_blocks,
            control_address: String::new(),
            data_address: String::new(),
            metrics_address: String::new(),
        }
    }

    pub(crate) fn run(&mut self) {
        while let Some((at, event)) = self.queue.pop() {
            self.now = at;
            self.events += 1;
            self.handle(event);
            while let Some(drain) = self.network.poll_drain() {
                self.queue.push(drain.at, Event::Drain(drain));
            }
            if self.is_over() || self.misses_too_many() {
                return;
            }
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Arrival => self.arrival(),
            Event::RouterTimer => self.router_timer(),
            Event::LeaseTimer => self.lease_timer(),
            Event::Retry { number, epoch } => self.retry(number, epoch),
            Event::ToNode { node, generation, message } => {
                self.message(node, generation, *message);
            }
            Event::ToRouter(message) => self.heard(*message),
            Event::Heartbeat { node, generation } => self.heartbeat(node, generation),
            Event::StepEnd { node, generation } => self.step_end(node, generation),
            Event::Wake { node, generation } => self.wake(node, generation),
            Event::SourceTimer { node, generation } => self.source_timer(node, generation),
            Event::Supply { transfer, step, bytes_per_second } => {
                self.supply(transfer, step, bytes_per_second);
            }
            Event::Drain(drain) => self.drained(&drain),
            Event::FirstAtSink { transfer } => self.first_at_sink(transfer),
            Event::LastPage { transfer } => self.last_page(transfer),
            Event::SinkTimer { transfer } => self.sink_timer(transfer),
            Event::PullBroken { transfer } => self.pull_failed(transfer),
            Event::OfferTimer { node, generation, moving } => {
                self.offer_timer(node, generation, moving);
            }
            Event::AdoptTimer { node, generation, moving } => {
                self.adopt_timer(node, generation, moving);
            }
            Event::ArbiterTimer { number } => self.arbiter_timer(number),
            Event::LookAgain { node, generation, moving } => {
                self.look_again(node, generation, moving);
            }
            Event::ForceMove => self.force_move(),
            Event::Rebalance => self.rebalance(),
            Event::FaultBegins(index) => self.fault_begins(index),
            Event::FaultEnds(index) => self.fault_ends(index),
            Event::Roles => self.look_at_roles(),
            Event::Advise => self.advise(),
            Event::Started { node } => self.started(node),
        }
    }

    fn is_over(&self) -> bool {
        self.next.is_none()
            && self.live.is_empty()
            && (self.is_whole() && self.departures.is_empty()
                || self.now > self.last_ended + SETTLING)
    }

    fn misses_too_many(&self) -> bool {
        self.most_misses.is_some_and(|most| self.misses > most)
    }

    fn is_whole(&self) -> bool {
        self.nodes.iter().all(|node| !node.is_busy() && node.cache.usage().held == 0)
    }

    pub(crate) fn finish(self) -> Finished {
        let leak = |node: &Node| {
            let Usage { held, .. } = node.cache.usage();
            let moving = node.offerings.len() + node.adoptions.len();
            let sequences = node.prefills.len() + node.decodes.len() + moving;
            (held > 0 || sequences > 0).then(|| Leak {
                node: node.name.to_string(),
                held_blocks: held,
                sequences,
            })
        };
        let leaks = self.nodes.iter().filter_map(leak).collect();
        let (now, mut outcomes, mut nodes) = (self.now, self.outcomes, self.nodes);
        let scaling = self.scaling.map(|scaling| scaling.report(&nodes, self.last_ended));
        outcomes.sort_by_key(|outcome| outcome.number);
        nodes.iter_mut().for_each(|node| node.stats.holds(now, 0));
        let ended = self.last_ended;
        Finished {
            outcomes,
            nodes,
            ended,
            over_context: self.workload.over_context(),
            leaks,
            reservations: self.placer.view().reservations(),
            scaling,
            moves: self.moves,
            fragmented: self.fragmented.mean(ended - Time::ZERO),
            switched: self.roles.map_or_else(Vec::new, |roles| roles.changes),
            events: self.events,
        }
    }

    /// Whether this incarnation of a node lives.
    fn is_alive(&self, node: usize, generation: Generation) -> bool {
        let Node { alive, generation: current, .. } = self.nodes[node];
        alive && current == generation
    }
}

impl Topology {
    /// Whether workers do both.
    pub(crate) fn is_colocated(self) -> bool {
        matches!(self, Topology::Colocated { .. })
    }
}
