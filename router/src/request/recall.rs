//! What nodes kept of a request whose router died.

use std::{sync::Arc, time::Duration};

use baton_policy::TenantId;
use baton_proto::{
    convert,
    node::v1::{RecallRequest, decode_client::DecodeClient},
};
use baton_types::{ChoiceIndex, ModelId, RequestId, TokenId};
use futures::future::join_all;
use tokio::time::timeout;

use crate::{cluster::Peer, router::Router};

/// Who doesn't answer by then has nothing.
const PATIENCE: Duration = Duration::from_millis(500);

impl Router {
    /// The outputs of a tenant's request that was another router's, as far as decode nodes of its model have kept them: the
    /// longest of each choice.
    pub(crate) async fn recall(
        &self,
        model: &ModelId,
        request: RequestId,
        tenant: &TenantId,
    ) -> Vec<(ChoiceIndex, Vec<TokenId>)> {
        let peers = self.cluster.decode_peers(model);
        let told = join_all(peers.iter().map(|peer| ask(peer, request, tenant))).await;
        let mut longest: Vec<(ChoiceIndex, Vec<TokenId>)> = Vec::new();
        for (choice, tokens) in told.into_iter().flatten() {
            match longest.iter_mut().find(|(known, _)| *known == choice) {
                Some((_, known)) if known.len() >= tokens.len() => {}
                Some((_, known)) => *known = tokens,
                None => longest.push((choice, tokens)),
            }
        }
        longest
    }
}

async fn ask(
    peer: &Arc<Peer>,
    request: RequestId,
    tenant: &TenantId,
) -> Vec<(ChoiceIndex, Vec<TokenId>)> {
    let mut client = DecodeClient::new(peer.channel.clone());
    let asked =
        RecallRequest { request_id: convert::to_bytes(request.0), tenant: tenant.0.to_string() };
    let Ok(Ok(answer)) = timeout(PATIENCE, client.recall(asked)).await else { return Vec::new() };
    let outputs = answer.into_inner().outputs.into_iter();
    let output = outputs.filter_map(|output| {
        let choice = ChoiceIndex(u16::try_from(output.choice).ok()?);
        Some((choice, output.tokens.into_iter().map(TokenId).collect()))
    });
    output.collect()
}
