//! Generating over gRPC, with the digests that `same-tokens` is judged by.

use anyhow::{Context, ensure};
use baton_proto::v1::{
    Complete, GenerateRequest, Sampling, TokenIds, generate_request::Prompt,
    generate_response::Event, inference_client::InferenceClient,
};
use baton_types::TokenId;
use futures::future::try_join_all;

/// One request for tokens.
#[derive(Clone, Debug)]
pub struct Ask {
    pub prompt: Vec<TokenId>,
    pub max_tokens: u32,
    pub temperature: f32,
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Generated {
    pub tokens: Vec<TokenId>,
    /// Of the raw logits each token was drawn from.
    pub digests: Vec<u64>,
    pub complete: Option<Complete>,
}

impl Generated {
    /// Tokens and digests alone: what must not depend on who computed them.
    pub fn bits(&self) -> (&[TokenId], &[u64]) {
        (&self.tokens, &self.digests)
    }
}

/// Asks once, and checks that indexes have no gaps and no repeats (`exact-stream`).
pub async fn generate(url: &str, model: &str, ask: &Ask) -> anyhow::Result<Generated> {
    let mut client = InferenceClient::connect(url.to_owned()).await?;
    let request = GenerateRequest {
        model: model.to_owned(),
        prompt: Some(Prompt::TokenIds(TokenIds {
            ids: ask.prompt.iter().map(|token| token.0).collect(),
        })),
        sampling: Some(Sampling {
            temperature: Some(ask.temperature),
            seed: Some(ask.seed),
            max_tokens: Some(ask.max_tokens),
            stop: Vec::new(),
        }),
    };
    let mut stream = client.generate(request).await?.into_inner();
    let mut generated = Generated { tokens: Vec::new(), digests: Vec::new(), complete: None };
    while let Some(response) = stream.message().await? {
        ensure!(generated.complete.is_none(), "something followed the end");
        match response.event.context("an empty message")? {
            Event::Started(_) => {}
            Event::Chunk(chunk) => {
                let (next, tokens) = (generated.tokens.len(), chunk.token_ids.len());
                ensure!(chunk.index as usize == next, "index {} after {next} tokens", chunk.index);
                ensure!(chunk.logits_digests.len() == tokens, "a token has no digest");
                generated.tokens.extend(chunk.token_ids.into_iter().map(TokenId));
                generated.digests.extend(chunk.logits_digests);
            }
            Event::Complete(complete) => generated.complete = Some(complete),
        }
    }
    ensure!(generated.complete.is_some(), "the stream ended without being complete");
    Ok(generated)
}

/// Asks everything at the same time.
pub async fn generate_all(url: &str, model: &str, asks: &[Ask]) -> anyhow::Result<Vec<Generated>> {
    try_join_all(asks.iter().map(|ask| generate(url, model, ask))).await
}
