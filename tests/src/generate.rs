//! Generating over gRPC, with the digests that `same-tokens` is judged by.

use anyhow::{Context, bail, ensure};
use baton_proto::v1::{
    self, Complete, GenerateRequest, GenerateResponse, Sampling, TokenIds,
    generate_request::Prompt, generate_response::Event, grammar::Source,
    inference_client::InferenceClient,
};
use baton_types::{Grammar, SamplingSpec, TokenId, TokenLogprobs};
use futures::future::try_join_all;
use tonic::{Streaming, transport::Endpoint};

/// One request for tokens.
#[derive(Clone, Debug)]
pub struct Ask {
    pub prompt: Vec<TokenId>,
    pub max_tokens: u32,
    pub sampling: SamplingSpec,
}

/// What came of it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Generated {
    pub tokens: Vec<TokenId>,
    /// Of the raw logits each token was drawn from.
    pub digests: Vec<u64>,
    /// Of each token, if they were asked for.
    pub logprobs: Vec<TokenLogprobs>,
    pub complete: Option<Complete>,
}

impl Generated {
    /// Tokens and digests alone: what must not depend on who computed them.
    pub fn bits(&self) -> (&[TokenId], &[u64], &[TokenLogprobs]) {
        (&self.tokens, &self.digests, &self.logprobs)
    }
}

/// Asks once, and checks that indexes have no gaps and no repeats (`exact-stream`).
pub async fn generate(url: &str, model: &str, ask: &Ask) -> anyhow::Result<Generated> {
    generate_known(url, model, ask, |_request| {}).await
}

/// The same, and tells the request's id when there is one.
pub async fn generate_known(
    url: &str,
    model: &str,
    ask: &Ask,
    known: impl FnOnce(String),
) -> anyhow::Result<Generated> {
    let begun = begin(url, model, ask).await?;
    known(begun.request_id.clone());
    begun.rest().await
}

/// Bytes of an answer that may be on their way.
const WINDOW: u32 = 16 << 10;

/// A stream of which only the first message has been read.
#[derive(Debug)]
pub struct Begun {
    pub request_id: String,
    stream: Streaming<GenerateResponse>,
}

/// Asks, and reads no further than to the request's id.
pub async fn begin(url: &str, model: &str, ask: &Ask) -> anyhow::Result<Begun> {
    // Small, so that one who doesn't read is soon noticed.
    let endpoint = Endpoint::from_shared(url.to_owned())?.initial_stream_window_size(WINDOW);
    let mut client = InferenceClient::new(endpoint.connect().await?);
    let request = GenerateRequest {
        model: model.to_owned(),
        prompt: Some(Prompt::TokenIds(TokenIds {
            ids: ask.prompt.iter().map(|token| token.0).collect(),
        })),
        sampling: Some(wire(ask)),
        ..GenerateRequest::default()
    };
    let mut stream = client.generate(request).await?.into_inner();
    let first = stream.message().await?.and_then(|response| response.event);
    let Some(Event::Started(started)) = first else { bail!("the first message is {first:?}") };
    Ok(Begun { request_id: started.request_id, stream })
}

impl Begun {
    /// Reads the rest, and checks that indexes have no gaps and no repeats (`exact-stream`).
    pub async fn rest(mut self) -> anyhow::Result<Generated> {
        let mut generated = Generated::default();
        while let Some(response) = self.stream.message().await? {
            ensure!(generated.complete.is_none(), "something followed the end");
            match response.event.context("an empty message")? {
                Event::Started(_) => bail!("a stream starts once"),
                Event::Chunk(chunk) => {
                    let (next, tokens) = (generated.tokens.len(), chunk.token_ids.len());
                    let index = chunk.index;
                    ensure!(index as usize == next, "index {index} after {next} tokens");
                    ensure!(chunk.logits_digests.len() == tokens, "a token has no digest");
                    generated.tokens.extend(chunk.token_ids.into_iter().map(TokenId));
                    generated.digests.extend(chunk.logits_digests);
                    generated.logprobs.extend(chunk.logprobs.into_iter().map(told));
                }
                Event::Complete(complete) => generated.complete = Some(complete),
            }
        }
        ensure!(generated.complete.is_some(), "the stream ended without being complete");
        Ok(generated)
    }
}

fn wire(ask: &Ask) -> Sampling {
    let spec = ask.sampling.clone();
    Sampling {
        temperature: Some(spec.temperature),
        seed: Some(spec.seed),
        max_tokens: Some(ask.max_tokens),
        top_k: Some(spec.top_k),
        top_p: Some(spec.top_p),
        min_p: Some(spec.min_p),
        typical_p: Some(spec.typical_p),
        repetition_penalty: Some(spec.repetition_penalty),
        frequency_penalty: Some(spec.frequency_penalty),
        presence_penalty: Some(spec.presence_penalty),
        logit_bias: spec.logit_bias.into_iter().map(|(id, bias)| (id.0, bias)).collect(),
        min_tokens: Some(spec.min_tokens),
        logprobs: spec.logprobs,
        grammar: spec.grammar.map(grammar),
        ..Sampling::default()
    }
}

fn grammar(grammar: Grammar) -> v1::Grammar {
    let source = match grammar {
        Grammar::JsonSchema(source) => Source::JsonSchema(source.to_string()),
        Grammar::Regex(source) => Source::Regex(source.to_string()),
        Grammar::Lark(source) => Source::Lark(source.to_string()),
        Grammar::AnyOf(_) => unreachable!("clients name one grammar; the router adds the tools'"),
    };
    v1::Grammar { source: Some(source) }
}

fn told(told: v1::TokenLogprobs) -> TokenLogprobs {
    let top = told.top.into_iter().map(|place| (TokenId(place.token_id), place.logprob));
    TokenLogprobs { logprob: told.logprob, top: top.collect() }
}

/// Asks everything at the same time.
pub async fn generate_all(url: &str, model: &str, asks: &[Ask]) -> anyhow::Result<Vec<Generated>> {
    try_join_all(asks.iter().map(|ask| generate(url, model, ask))).await
}
