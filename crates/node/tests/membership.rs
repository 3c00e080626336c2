//! A node and the router's registry: joining, heartbeats, joining again, leaving.

#![allow(clippy::unwrap_used, reason = "a test says what went wrong by panicking")]

use std::{sync::Arc, time::Duration};

use baton_node::{
    Node, Serving,
    config::{EngineConfig, KvConfig, NodeConfig},
    transport::{self, Bound},
};
use baton_proto::{
    PROTOCOL_VERSION,
    node::v1::{
        Drain, Heartbeat, JoinRequest, JoinResponse, KvEvents, KvSnapshotWanted, TakeRole, Welcome,
        join_request::Message,
        join_response,
        registry_server::{Registry, RegistryServer},
    },
};
use baton_scheduler::sim::SimConfig;
use baton_text::TextAssets;
use baton_types::{BlockHash, Role};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::mpsc,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming, service::Routes};

const PATIENCE: Duration = Duration::from_secs(10);

/// A registry that hands each stream it is given to the test.
struct Handing {
    streams: mpsc::Sender<Joined>,
}

struct Joined {
    from: Streaming<JoinRequest>,
    /// Dropping it ends the stream.
    to: mpsc::Sender<Result<JoinResponse, Status>>,
}

#[tonic::async_trait]
impl Registry for Handing {
    type JoinStream = ReceiverStream<Result<JoinResponse, Status>>;

    async fn join(
        &self,
        request: Request<Streaming<JoinRequest>>,
    ) -> Result<Response<Self::JoinStream>, Status> {
        let (to, responses) = mpsc::channel(4);
        let welcome = Welcome {
            protocol_version: PROTOCOL_VERSION,
            router: 1,
            heartbeat_interval_us: 10_000,
        };
        let message = Some(join_response::Message::Welcome(welcome));
        to.try_send(Ok(JoinResponse { message })).unwrap();
        let joined = Joined { from: request.into_inner(), to };
        self.streams.send(joined).await.map_err(|_| Status::unavailable("the test is over"))?;
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

impl Joined {
    async fn order(&self, role: Role) {
        let role = baton_proto::node::v1::Role::from(role).into();
        let message = Some(join_response::Message::TakeRole(TakeRole { role }));
        self.to.send(Ok(JoinResponse { message })).await.unwrap();
    }

    async fn until_draining(&mut self, draining: bool) {
        loop {
            match self.next().await {
                Some(Message::Heartbeat(beat)) if beat.draining == draining => return,
                Some(_) => {}
                None => panic!("the stream ended"),
            }
        }
    }

    /// The next that changed in the cache; whatever else is said is passed over.
    async fn events(&mut self) -> KvEvents {
        loop {
            match self.next().await {
                Some(Message::Heartbeat(Heartbeat { kv_events: Some(events), .. })) => {
                    return events;
                }
                Some(_) => {}
                None => panic!("the stream ended"),
            }
        }
    }

    async fn next(&mut self) -> Option<Message> {
        let message = tokio::time::timeout(PATIENCE, self.from.message());
        message.await.expect("a message in time").ok().flatten()?.message
    }
}

struct Router {
    address: String,
    streams: mpsc::Receiver<Joined>,
    _server: tokio_util::task::AbortOnDropHandle<Result<(), transport::TransportError>>,
}

impl Router {
    async fn start() -> Self {
        let bound = Bound::new("registry", [127, 0, 0, 1].into(), 0).await.unwrap();
        let address = format!("http://{}", bound.address);
        let (streams, receiver) = mpsc::channel(1);
        let service = RegistryServer::new(Handing { streams });
        let server = transport::serve(bound, Routes::new(service), CancellationToken::new());
        Router { address, streams: receiver, _server: baton_node::task::owned(server) }
    }

    async fn joined(&mut self) -> Joined {
        tokio::time::timeout(PATIENCE, self.streams.recv()).await.expect("a join").unwrap()
    }
}

async fn node(routers: impl IntoIterator<Item = String>) -> (Arc<Node>, Serving) {
    let mut config = NodeConfig::new(EngineConfig::Sim(SimConfig::default()));
    config.kv = KvConfig { blocks: Some(16), ..KvConfig::default() };
    config.routers = routers.into_iter().collect();
    let node = Node::load(config, Role::Decode).await.unwrap();
    let serving = node.serve(Routes::default(), None).await.unwrap();
    (node, serving)
}

/// Status line and body of an operator's question.
async fn ask(serving: &Serving, path: &str) -> (String, String) {
    let mut stream = tokio::net::TcpStream::connect(serving.metrics_address()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: node\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.lines().next().unwrap().to_owned(), body.to_owned())
}

#[tokio::test]
async fn a_node_introduces_itself_beats_and_leaves() {
    let mut router = Router::start().await;
    let (node, serving) = node(Some(router.address.clone())).await;
    let mut joined = router.joined().await;
    let Some(Message::Hello(hello)) = joined.next().await else { panic!("the hello comes first") };
    assert_eq!(hello.node, node.id.to_string());
    assert!(hello.node.starts_with("decode-"), "{}", hello.node);
    assert_eq!(hello.generation, node.generation().0);
    assert_eq!((hello.model.as_str(), hello.total_blocks), ("sim", 16));
    assert_eq!(hello.control_address, format!("http://{}", serving.control_address()));
    assert_eq!(hello.metrics_address, serving.metrics_address().to_string());
    assert_eq!(TextAssets::try_from(hello.text.unwrap()), Ok(TextAssets::bytes()));

    for _ in 0..2 {
        let Some(Message::Heartbeat(beat)) = joined.next().await else { panic!("then heartbeats") };
        assert_eq!((beat.free_blocks, beat.running, beat.draining), (16, 0, false));
    }

    let shutdown = CancellationToken::new();
    let leaving = baton_node::task::owned(serving.until(shutdown.clone()));
    // Somebody is inside, so that there is something to drain.
    let inside = node.gate.enter(Role::Decode, "sim", node.generation().0).unwrap();
    shutdown.cancel();
    loop {
        match joined.next().await {
            Some(Message::Heartbeat(beat)) if beat.draining => break,
            Some(Message::Heartbeat(_)) => {}
            other => panic!("{other:?}"),
        }
    }
    assert!(node.gate.enter(Role::Decode, "sim", node.generation().0).is_err());
    drop(inside);
    leaving.await.unwrap().unwrap();
    while joined.next().await.is_some() {}
}

#[tokio::test]
async fn a_node_whose_router_hangs_up_joins_again() {
    let mut router = Router::start().await;
    let (node, _serving) = node(Some(router.address.clone())).await;
    for _ in 0..3 {
        let mut joined = router.joined().await;
        let Some(Message::Hello(hello)) = joined.next().await else { panic!("no hello") };
        assert_eq!(hello.generation, node.generation().0, "it is the same incarnation");
    }
}

#[tokio::test]
async fn a_node_tells_of_its_cache_what_changed_and_all_when_asked() {
    let mut router = Router::start().await;
    let (node, _serving) = node(Some(router.address.clone())).await;
    let publish = |hash: u128| {
        let block = node.cache.reserve(1).unwrap().remove(0);
        node.cache.publish(BlockHash(hash), None, &block);
    };
    publish(1);
    let mut joined = router.joined().await;
    let Some(Message::Hello(_)) = joined.next().await else { panic!("the hello comes first") };
    let snapshot = joined.events().await;
    assert_eq!((snapshot.since, snapshot.upto, &snapshot.stored), (None, 1, &hashes(&[1])));
    publish(2);
    let change = joined.events().await;
    assert_eq!((change.since, change.upto, &change.stored), (Some(1), 2, &hashes(&[2])));
    let wanted = join_response::Message::KvSnapshot(KvSnapshotWanted {});
    joined.to.send(Ok(JoinResponse { message: Some(wanted) })).await.unwrap();
    let mut again = joined.events().await;
    again.stored.sort_unstable();
    assert_eq!((again.since, again.upto), (None, 2));
    assert_eq!(again.stored.len(), 32, "both blocks");

    drop(joined);
    let mut joined = router.joined().await;
    let Some(Message::Hello(_)) = joined.next().await else { panic!("the hello comes first") };
    assert_eq!(joined.events().await.since, None, "another stream begins anew");
}

/// It is another incarnation once nobody is inside, and not before.
#[tokio::test]
async fn a_node_takes_the_other_role_when_it_is_empty() {
    let mut router = Router::start().await;
    let (node, _serving) = node(Some(router.address.clone())).await;
    let old = node.generation();
    let inside = node.gate.enter(Role::Decode, "sim", old.0).unwrap();
    let mut joined = router.joined().await;
    let Some(Message::Hello(_)) = joined.next().await else { panic!("the hello comes first") };
    joined.order(Role::Prefill).await;
    joined.until_draining(true).await;
    let refused = node.gate.enter(Role::Decode, "sim", old.0).unwrap_err();
    assert!(refused.to_string().contains("draining"), "{refused}");
    // It is told to stay after all.
    joined.order(Role::Decode).await;
    joined.until_draining(false).await;
    drop(node.gate.enter(Role::Decode, "sim", old.0).unwrap());

    joined.order(Role::Prefill).await;
    joined.until_draining(true).await;
    assert_eq!(node.generation(), old, "somebody is inside");
    drop(inside);
    while joined.next().await.is_some() {}
    drop(joined);
    let mut joined = router.joined().await;
    let Some(Message::Hello(hello)) = joined.next().await else { panic!("the hello comes first") };
    assert_eq!(hello.role(), baton_proto::node::v1::Role::Prefill);
    assert_eq!(hello.node, node.id.to_string());
    assert_ne!(hello.generation, old.0, "it is another incarnation");
    joined.until_draining(false).await;
    let refused = node.gate.enter(Role::Prefill, "sim", old.0).unwrap_err();
    assert!(refused.to_string().contains("generation"), "{refused}");
    let refused = node.gate.enter(Role::Decode, "sim", hello.generation).unwrap_err();
    assert!(refused.to_string().contains("is a prefill node"), "{refused}");
    drop(node.gate.enter(Role::Prefill, "sim", hello.generation).unwrap());
}

/// All of its routers hear it, and send nothing; whoever is on the way there already comes in.
#[tokio::test]
async fn a_node_that_one_router_drains_tells_all_of_them() {
    let (mut first, mut second) = (Router::start().await, Router::start().await);
    let addresses = [&first, &second].map(|router| router.address.clone());
    let (node, serving) = node(addresses).await;
    let mut routers = [first.joined().await, second.joined().await];
    for drains in [true, false] {
        let drain = join_response::Message::Drain(Drain { drains });
        routers[0].to.send(Ok(JoinResponse { message: Some(drain) })).await.unwrap();
        for router in &mut routers {
            router.until_draining(drains).await;
        }
        drop(node.gate.enter(Role::Decode, "sim", node.generation().0).unwrap());
    }
    // One of them is gone: the other knows the node on, and it is ready.
    let [ours, mut others] = routers;
    drop((ours, first));
    others.until_draining(false).await;
    assert_eq!(ask(&serving, "/ready").await.0, "HTTP/1.1 200 OK");
}

#[tokio::test]
async fn a_node_that_leaves_takes_no_other_role() {
    let mut router = Router::start().await;
    let (node, serving) = node(Some(router.address.clone())).await;
    let old = node.generation();
    let inside = node.gate.enter(Role::Decode, "sim", old.0).unwrap();
    let mut joined = router.joined().await;
    let shutdown = CancellationToken::new();
    let leaving = baton_node::task::owned(serving.until(shutdown.clone()));
    joined.order(Role::Prefill).await;
    joined.until_draining(true).await;
    shutdown.cancel();
    drop(inside);
    leaving.await.unwrap().unwrap();
    while joined.next().await.is_some() {}
    assert!(node.gate.is_draining(), "it takes nothing any more");
}

fn hashes(hashes: &[u128]) -> Vec<u8> {
    hashes.iter().flat_map(|hash| hash.to_be_bytes()).collect()
}

#[tokio::test]
async fn operators_see_metrics_health_and_readiness() {
    let (node, serving) = node(None).await;
    let (status, body) = ask(&serving, "/metrics").await;
    assert_eq!(status, "HTTP/1.1 200 OK");
    assert!(body.contains("baton_kv_blocks{state=\"free\"} 16"), "{body}");
    assert!(body.contains("vllm:kv_cache_usage_perc{model_name=\"sim\"} 0.0"), "{body}");
    assert_eq!(ask(&serving, "/health").await.0, "HTTP/1.1 200 OK");
    assert_eq!(ask(&serving, "/ready").await.0, "HTTP/1.1 200 OK");

    node.steps.stop();
    node.steps.ended().await;
    assert_eq!(ask(&serving, "/health").await.0, "HTTP/1.1 503 Service Unavailable");
    let error = serving.until(CancellationToken::new()).await.unwrap_err();
    assert!(error.to_string().contains("step loop"), "{error}");
}

#[tokio::test]
async fn a_node_is_ready_once_a_router_knows_it() {
    // Nobody listens there.
    let nowhere = Bound::new("nobody", [127, 0, 0, 1].into(), 0).await.unwrap();
    let address = format!("http://{}", nowhere.address);
    drop(nowhere);
    let (_node, serving) = node(Some(address)).await;
    let (status, body) = ask(&serving, "/ready").await;
    assert_eq!(status, "HTTP/1.1 503 Service Unavailable");
    assert!(body.contains("not joined"), "{body}");
    assert_eq!(ask(&serving, "/health").await.0, "HTTP/1.1 200 OK");
}
