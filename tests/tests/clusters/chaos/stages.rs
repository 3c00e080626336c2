//! Each kind of process is killed, or stopped and continued late, at each stage of a request.
//!
//! Nothing here waits for a time: that a request has come to a stage is seen in what the processes count.

use std::sync::Arc;

use baton_proto::v1::{ExplainRequest, MigrateRequest, operations_client::OperationsClient};
use baton_tests::{Answer, Apart, Ask, Engine, Options, Progress, Reference};
use tokio::runtime::Runtime;

use super::{PATIENCE, ask, check, reader, until};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// It waits at the router for a place.
    Queued,
    Prefilling,
    /// Its prompt is computed, and its pages are held for who pulls them.
    HandedOver,
    Running,
    /// It goes to another decode node while it is decoded.
    Migrating,
    /// One token is left.
    Finishing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Prefill,
    Decode,
    Router,
    /// Of a migration.
    Source,
    Destination,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Killed,
    /// And continued when everybody has done without it.
    Stopped,
}

/// A cluster in which one thing after the other happens.
struct Scene {
    cluster: Apart,
    reference: Reference,
    runtime: Runtime,
    /// So far.
    asked: u32,
}

/// What there is to be done when it happens.
#[derive(Clone, Copy, Debug)]
struct Asked {
    requests: u32,
    /// Tokens of each prompt.
    prompt: u32,
    max_tokens: u32,
}

type Readings = Vec<(Ask, Arc<Progress>)>;

/// Whether all have all their tokens.
fn are_over(readings: &Readings) -> bool {
    readings.iter().all(|(ask, progress)| progress.tokens() == ask.max_tokens as usize)
}

impl Scene {
    fn new(options: Options) -> Self {
        let options = options
            .nodes(2, 3)
            .router_set("policy.local_tokens=0")
            .router_set("rebalance.enabled=false")
            .router_set("timeouts.resume=500ms");
        let cluster = Apart::beside(&Options { routers: 2, ..options }).unwrap();
        let (reference, runtime) = (Reference::sim().unwrap(), Runtime::new().unwrap());
        Scene { cluster, reference, runtime, asked: 0 }
    }

    /// Asks, strikes when somebody is at `stage`, and checks that nobody lost anything by it.
    fn play(&mut self, stage: Stage, victim: Victim, fate: Fate, asked: Asked) {
        // Some stages are short, and may be over before anybody has looked.
        let played = (0..TAKES).any(|_| self.take(stage, victim, fate, asked));
        assert!(played, "{victim:?} {fate:?} while {stage:?}: it was never seen");
    }

    /// False if it wasn't seen in time.
    fn take(&mut self, stage: Stage, victim: Victim, fate: Fate, asked: Asked) -> bool {
        let what = format!("{victim:?} {fate:?} while {stage:?}");
        let (readings, reader) = (self.readings(asked), &reader(&self.cluster));
        let (struck, answers) = std::thread::scope(|scope| {
            let all = readings
                .iter()
                .enumerate()
                .map(|(at, (ask, progress))| scope.spawn(move || reader.read(ask, at, progress)));
            let all: Vec<_> = all.collect();
            let struck = match stage {
                Stage::Migrating => Some(self.strike_a_move(victim, fate, &readings[0].1)),
                _ => self.strike_at(stage, victim, fate, &readings),
            };
            assert!(struck.is_none() || !are_over(&readings), "{what}: they had ended before");
            let answers = all.into_iter().map(|answer| answer.join().unwrap());
            (struck, answers.collect::<anyhow::Result<Vec<Answer>>>())
        });
        let answers = answers.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        for ((ask, _), answer) in readings.iter().zip(&answers) {
            check(&mut self.reference, ask, answer);
        }
        let Some(struck) = struck else { return false };
        let others = self.cluster.node_names().into_iter().filter(|name| *name != struck);
        let unhealthy: Vec<String> = others.filter(|name| !self.cluster.is_healthy(name)).collect();
        assert!(unhealthy.is_empty(), "{what}: {unhealthy:?} say that they aren't well");
        match fate {
            Fate::Killed => self.cluster.restart(&struck).unwrap(),
            Fate::Stopped => self.cluster.process(&struck).unwrap().resume().unwrap(),
        }
        self.cluster.wait_idle(PATIENCE).unwrap_or_else(|error| panic!("{what}: {error:#}"));
        true
    }

    /// Waits for somebody to be at the stage, or for nobody to come there any more.
    fn strike_at(
        &self,
        stage: Stage,
        victim: Victim,
        fate: Fate,
        readings: &Readings,
    ) -> Option<String> {
        let candidates = match victim {
            Victim::Router => vec!["router".to_owned()],
            Victim::Prefill => self.of_role("prefill"),
            _ => self.of_role("decode"),
        };
        let mut found = None;
        until(&format!("{victim:?} while {stage:?}"), || {
            found = candidates.iter().find(|name| self.is_at(stage, name, readings));
            found.is_some() || are_over(readings)
        });
        let found = found.filter(|_| !are_over(readings))?;
        self.strike(found, fate);
        Some(found.clone())
    }

    fn of_role(&self, role: &str) -> Vec<String> {
        let names = self.cluster.node_names().into_iter();
        names.filter(|name| name.starts_with(role)).collect()
    }

    fn readings(&mut self, asked: Asked) -> Readings {
        let Asked { requests, prompt, max_tokens } = asked;
        let from = self.asked;
        self.asked += requests;
        (from..self.asked)
            .map(|variety| (ask(variety, prompt, max_tokens), Arc::default()))
            .collect()
    }

    fn strike(&self, name: &str, fate: Fate) {
        let process = self.cluster.process(name).unwrap();
        match fate {
            Fate::Killed => process.kill().unwrap(),
            Fate::Stopped => process.stop().unwrap(),
        }
    }

    /// Whether some request that has to do with this process is at the stage.
    fn is_at(&self, stage: Stage, name: &str, readings: &Readings) -> bool {
        let of = |name: &str, what: &str| self.cluster.sample_of(name, what) > 0.0;
        let of_role = |role: &str, what: &str| self.of_role(role).iter().any(|name| of(name, what));
        // What isn't a router's is any of its nodes'.
        let own = |role: &str, what: &str| match name.starts_with(role) {
            true => of(name, what),
            false => of_role(role, what),
        };
        let tokens = || readings.iter().map(|(_, progress)| progress.tokens());
        match stage {
            Stage::Queued => self.cluster.routers().iter().any(|router| of(router, QUEUED)),
            Stage::Prefilling => own("prefill", RUNNING) && own("decode", MOVING),
            Stage::HandedOver => own("prefill", MOVING) && own("decode", MOVING),
            Stage::Running => own("decode", RUNNING) && tokens().all(|tokens| tokens > 1),
            Stage::Finishing => {
                tokens().any(|tokens| tokens + 1 >= readings[0].0.max_tokens as usize)
            }
            Stage::Migrating => unreachable!("it is brought about"),
        }
    }

    /// Has a sequence move, and strikes when its pages are on their way.
    fn strike_a_move(&self, victim: Victim, fate: Fate, progress: &Progress) -> String {
        until("it is decoded", || progress.tokens() > 1);
        let request_id = progress.id.get().unwrap().clone();
        let url = self.cluster.url();
        let mut operations = self.runtime.block_on(OperationsClient::connect(url)).unwrap();
        let explain = ExplainRequest { request_id: request_id.clone() };
        let explained = self.runtime.block_on(operations.explain(explain)).unwrap().into_inner();
        let source = explained.decisions[0].chosen.clone().unwrap().decode_node;
        let destination = if source == "decode-1" { "decode-2" } else { "decode-1" };
        let order = MigrateRequest { request_id, node: destination.to_owned() };
        let moving = self.runtime.spawn(async move { operations.migrate(order).await });
        until("its pages move", || self.cluster.sample_of(destination, MOVING) > 0.0);
        let struck = match victim {
            Victim::Source => &source,
            Victim::Destination => destination,
            _ => "router",
        };
        self.strike(struck, fate);
        // What came of it isn't the matter here; a stopped router never says.
        moving.abort();
        struck.to_owned()
    }
}

/// How often a stage is waited for.
const TAKES: u32 = 5;
const QUEUED: &str = "baton_router_queued";
const RUNNING: &str = "baton_requests_running";
/// Held for others by prefill nodes, being pulled by decode nodes.
const MOVING: &str = "baton_transfers_held";

/// A token of a prompt takes half a millisecond, and there is room for one request a decode node.
#[test]
fn before_the_first_token() {
    let options = Options::new(Engine::Sim)
        .set("engine.profile.prefill_token_us=500.0")
        .set("engine.profile.decode_us=2000.0");
    let mut scene = Scene::new(Options { kv_size: "24KiB", ..options });
    let asked = |requests| Asked { requests, prompt: 200, max_tokens: 40 };
    for fate in [Fate::Killed, Fate::Stopped] {
        for victim in [Victim::Prefill, Victim::Decode, Victim::Router] {
            scene.play(Stage::Queued, victim, fate, asked(6));
            scene.play(Stage::Prefilling, victim, fate, asked(3));
        }
    }
}

/// A block's pages are a megabyte.
#[test]
fn from_the_hand_over_on() {
    let layout = "{layers=4,kv_heads=8,head_dim=512,block_tokens=16,dtype=\"f16\"}";
    let options = Options::new(Engine::Sim)
        .set(format!("engine.layout={layout}"))
        .set("transfer.migration_share=0.2")
        .set("engine.profile.prefill_token_us=10.0")
        .set("engine.profile.decode_us=4000.0");
    let mut scene = Scene::new(Options { kv_size: "512MiB", ..options });
    let large = Asked { requests: 1, prompt: 3000, max_tokens: 30 };
    let one = Asked { requests: 1, prompt: 800, max_tokens: 80 };
    let several = Asked { requests: 4, prompt: 100, max_tokens: 50 };
    for fate in [Fate::Killed, Fate::Stopped] {
        for (stage, victim, asked) in [
            (Stage::HandedOver, Victim::Prefill, large),
            (Stage::HandedOver, Victim::Decode, large),
            (Stage::HandedOver, Victim::Router, large),
            (Stage::Running, Victim::Decode, several),
            (Stage::Running, Victim::Router, several),
            (Stage::Migrating, Victim::Source, one),
            (Stage::Migrating, Victim::Destination, one),
            (Stage::Migrating, Victim::Router, one),
            (Stage::Finishing, Victim::Decode, several),
            (Stage::Finishing, Victim::Router, several),
        ] {
            scene.play(stage, victim, fate, asked);
        }
    }
}
