//! `baton.v1.Operations`: for whoever runs the cluster.

use std::{pin::Pin, sync::Arc};

use baton_policy::advice::{Advice, RoleAdvice};
use baton_proto::{
    status::{Refuse, status},
    v1::{
        self, AdviseRequest, AdviseResponse, ExplainRequest, ExplainResponse, WatchNodesRequest,
        WatchNodesResponse, operations_server::Operations,
    },
};
use baton_types::RequestId;
use futures::{Stream, StreamExt, stream};
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tonic::{Code, Request, Response, Status};

use crate::{error::RequestError, router::Router};

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

    async fn explain(
        &self,
        request: Request<ExplainRequest>,
    ) -> Result<Response<ExplainResponse>, Status> {
        let given = request.into_inner().request_id;
        // An answer's id over HTTP is the request's with another name in front.
        let id = given.rsplit('-').next().map(|hex| format!("req-{hex}")).unwrap_or_default();
        let request: RequestId = id.parse().map_err(|_| {
            let message =
                format!("{given:?} is no request's id; they end with 32 hexadecimal digits");
            status(&RequestError::invalid("request_id", "invalid_value", message))
        })?;
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
