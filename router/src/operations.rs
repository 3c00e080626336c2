//! `baton.v1.Operations`: for whoever runs the cluster.

use std::sync::Arc;

use baton_proto::{
    status::{Refuse, status},
    v1::{ExplainRequest, ExplainResponse, operations_server::Operations},
};
use baton_types::RequestId;
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

#[tonic::async_trait]
impl Operations for OperationsService {
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
}
