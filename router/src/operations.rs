//! `baton.v1.Operations`: for whoever runs the cluster.

use std::{pin::Pin, sync::Arc, time::Duration};

use baton_policy::advice::{Advice, RoleAdvice};
use baton_proto::{
    convert::micros,
    status::{Refuse, status},
    v1::{
        self, AdviseRequest, AdviseResponse, DrainRequest, DrainResponse, ExplainRequest,
        ExplainResponse, MigrateRequest, MigrateResponse, SetRoleRequest, SetRoleResponse,
        WatchNodesRequest, WatchNodesResponse, operations_server::Operations,
    },
};
use baton_types::{NodeId, RequestId, Role, SequenceKey};
use futures::{Stream, StreamExt, stream};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tonic::{Code, Request, Response, Status};

use crate::{
    error::RequestError,
    moves::{Moved, NotMoved, Why},
    router::Router,
};

/// How often to look whether a node is empty.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

#[derive(Clone, Debug)]
pub(crate) struct OperationsService {
    pub(crate) router: Arc<Router>,
}

#[derive(Debug, thiserror::Error)]
#[error("request {request} is not among the latest thousand of this router")]
struct Unknown {
    request: RequestId,
}

impl Refuse for Unknown {
    fn code(&self) -> Code {
        Code::NotFound
    }

    fn reason(&self) -> &'static str {
        "REQUEST_NOT_FOUND"
    }
}

#[derive(Debug, thiserror::Error)]
#[error("request {request} doesn't run here")]
struct NotRunning {
    request: RequestId,
}

impl Refuse for NotRunning {
    fn code(&self) -> Code {
        Code::NotFound
    }

    fn reason(&self) -> &'static str {
        "REQUEST_NOT_RUNNING"
    }
}

#[derive(Debug, thiserror::Error)]
#[error("{lost} reports of nodes are lost, for they weren't read in time; watch again")]
struct Lagged {
    lost: u64,
}

impl Refuse for Lagged {
    fn code(&self) -> Code {
        Code::DataLoss
    }

    fn reason(&self) -> &'static str {
        "READ_TOO_SLOWLY"
    }
}

type Reports = Pin<Box<dyn Stream<Item = Result<WatchNodesResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Operations for OperationsService {
    type WatchNodesStream = Reports;

    async fn migrate(
        &self,
        request: Request<MigrateRequest>,
    ) -> Result<Response<MigrateResponse>, Status> {
        let MigrateRequest { request_id, node } = request.into_inner();
        let request = parse_id(&request_id)?;
        let to = (!node.is_empty()).then(|| NodeId::from(&node[..]));
        let moves = &self.router.moves;
        let keys = moves.of(request);
        if keys.is_empty() {
            return Err(status(&NotRunning { request }));
        }
        let moving = keys.into_iter().map(|key| {
            let to = to.clone();
            async move { migration(key, moves.ask(key, to, Why::Asked).await) }
        });
        let migrations = futures::future::join_all(moving).await;
        Ok(Response::new(MigrateResponse { migrations }))
    }

    async fn drain(
        &self,
        request: Request<DrainRequest>,
    ) -> Result<Response<DrainResponse>, Status> {
        let DrainRequest { node, wait_us, cancel } = request.into_inner();
        let (node, cluster) = (NodeId::from(&node[..]), &self.router.cluster);
        cluster.drain(&node, !cancel).map_err(|error| status(&error))?;
        let empty = async {
            while cluster.left(&node) > 0 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        if !cancel {
            // What is left says whether it was in time.
            let _ = tokio::time::timeout(Duration::from_micros(wait_us), empty).await;
        }
        Ok(Response::new(DrainResponse { left: cluster.left(&node) }))
    }

    async fn set_role(
        &self,
        request: Request<SetRoleRequest>,
    ) -> Result<Response<SetRoleResponse>, Status> {
        let request = request.into_inner();
        let (node, cluster) = (NodeId::from(&request.node[..]), &self.router.cluster);
        let to = Role::try_from(request.role()).map_err(|_| {
            let message = format!("{} is no role: 1 is prefill, 2 is decode", request.role);
            status(&RequestError::invalid("role", "invalid_value", message))
        })?;
        cluster.take_role(&node, to).map_err(|error| status(&error))?;
        let taken = async {
            while cluster.role(&node) != Some(to) {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        };
        let done = tokio::time::timeout(Duration::from_micros(request.wait_us), taken).await;
        let left = if done.is_ok() { 0 } else { cluster.left(&node) };
        Ok(Response::new(SetRoleResponse { done: done.is_ok(), left }))
    }

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        let request = parse_id(&request.into_inner().request_id)?;
        let decisions = self.router.ledger.explain(request);
        let decisions = decisions.ok_or_else(|| status(&Unknown { request }))?;
        Ok(Response::new(ExplainResponse { decisions }))
    }

    async fn advise(
        &self,
        _request: Request<AdviseRequest>,
    ) -> Result<Response<AdviseResponse>, Status> {
        let config = self.router.config.advice.policy();
        let role = |advice: &RoleAdvice| v1::RoleAdvice {
            nodes: advice.nodes,
            recommended: advice.recommended,
            reason: advice.why(&config),
        };
        let model = |advice: &Advice| v1::Advice {
            model: advice.model.to_string(),
            formula: advice.formula.name().to_owned(),
            prefill: Some(role(&advice.prefill)),
            decode: Some(role(&advice.decode)),
            role_switch: advice.switch.map(|switch| switch.to_string()).unwrap_or_default(),
        };
        let models = self.router.cluster.advice().iter().map(model).collect();
        Ok(Response::new(AdviseResponse { models }))
    }

    async fn watch_nodes(
        &self,
        request: Request<WatchNodesRequest>,
    ) -> Result<Response<Reports>, Status> {
        let WatchNodesRequest { model } = request.into_inner();
        let reports = reports_of(model, self.router.cluster.watch_nodes());
        Ok(Response::new(Box::pin(reports.take_until(self.router.inside.closed()))))
    }
}

fn parse_id(given: &str) -> Result<RequestId, Status> {
    // An answer's id over HTTP is the request's with another name in front.
    let id = given.rsplit('-').next().map(|hex| format!("req-{hex}")).unwrap_or_default();
    id.parse().map_err(|_| {
        let message = format!("{given:?} is no request's id; they end with 32 hexadecimal digits");
        status(&RequestError::invalid("request_id", "invalid_value", message))
    })
}

fn migration(key: SequenceKey, moved: Result<Moved, NotMoved>) -> v1::Migration {
    let choice = key.choice.0.into();
    match moved {
        Ok(Moved { from, to, took, gap }) => v1::Migration {
            choice,
            stays: String::new(),
            from: from.to_string(),
            to: to.map(|to| to.to_string()).unwrap_or_default(),
            took_us: micros(took),
            gap_us: micros(gap.whole),
            tail_us: micros(gap.tail),
            step_us: micros(gap.step),
        },
        Err(why) => v1::Migration { choice, stays: why.to_string(), ..v1::Migration::default() },
    }
}

/// What the nodes of a model say, or all, until it is lost or nobody says anything any more.
fn reports_of(
    model: String,
    nodes: Receiver<WatchNodesResponse>,
) -> impl Stream<Item = Result<WatchNodesResponse, Status>> + Send {
    let said = stream::unfold(Some(nodes), |nodes| async {
        let mut nodes = nodes?;
        match nodes.recv().await {
            Ok(report) => Some((Ok(report), Some(nodes))),
            Err(RecvError::Lagged(lost)) => Some((Err(status(&Lagged { lost })), None)),
            Err(RecvError::Closed) => None,
        }
    });
    said.filter(move |report| {
        let node = report.as_ref().ok().and_then(|report| report.node.as_ref());
        std::future::ready(node.is_none_or(|node| model.is_empty() || node.model == model))
    })
}
