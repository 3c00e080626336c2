//! `baton.v1.Inference`.

mod resume;
mod tokens;

use std::{pin::Pin, sync::Arc, time::Duration};

use baton_proto::{
    convert,
    status::status,
    v1::{
        self, CancelRequest, CancelResponse, ChatRequest, ChatResponse, DetokenizeRequest,
        DetokenizeResponse, GenerateRequest, GenerateResponse, ListModelsRequest,
        ListModelsResponse, Started, TokenizeRequest, TokenizeResponse, chat_response,
        generate_request, generate_response, inference_server::Inference,
    },
};
use baton_text::CallPiece;
use baton_types::{FinishReason, ModelId, RequestId, TokenId};
use futures::{Stream, StreamExt, stream};
use rand::Rng;
use tonic::{Extensions, Request, Response, Status, metadata::MetadataMap};

use self::resume::Had;
use crate::{
    error::RequestError,
    metrics::TokensFrom,
    request::{Answer, Ask, Caller, Chunk, End, NamedClass, Prompt, Said, call_id},
    router::Router,
};

#[derive(Debug)]
pub(crate) struct InferenceService {
    pub(crate) router: Arc<Router>,
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What either stream is asked for.
struct Asked {
    model: String,
    class: String,
    prompt: Result<Prompt, RequestError>,
    sampling: Option<v1::Sampling>,
    resume: Option<v1::Resume>,
}

/// A message of either stream.
enum Event {
    Started(Started),
    Chunk(v1::Chunk),
    Complete(v1::Complete),
}

#[tonic::async_trait]
impl Inference for InferenceService {
    type GenerateStream = Answers<GenerateResponse>;
    type ChatStream = Answers<ChatResponse>;

    async fn generate(
        &self,
        request: Request<GenerateRequest>,
    ) -> Result<Response<Answers<GenerateResponse>>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let GenerateRequest { model, prompt, sampling, class, resume } = request;
        let prompt = match prompt {
            Some(generate_request::Prompt::Text(text)) => Ok(Prompt::Text(text)),
            Some(generate_request::Prompt::TokenIds(ids)) => {
                convert::token_ids(ids).map(Prompt::Tokens).map_err(RequestError::from)
            }
            None => Err(RequestError::EmptyPrompt { param: "prompt" }),
        };
        let asked = Asked { model, class, prompt, sampling, resume };
        let answers = self.answer(&metadata, &extensions, asked).await?;
        Ok(Response::new(Box::pin(answers.map(|event| {
            let event = Some(match event? {
                Event::Started(started) => generate_response::Event::Started(started),
                Event::Chunk(chunk) => generate_response::Event::Chunk(chunk),
                Event::Complete(complete) => generate_response::Event::Complete(complete),
            });
            Ok(GenerateResponse { event })
        }))))
    }

    async fn chat(
        &self,
        request: Request<ChatRequest>,
    ) -> Result<Response<Answers<ChatResponse>>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let ChatRequest { model, messages, sampling, tools, choice, .. } = request;
        let chat = convert::chat(messages, tools, choice, request.single_tool_call);
        let prompt = chat.map(Prompt::Chat).map_err(RequestError::from);
        let (class, resume) = (request.class, request.resume);
        let asked = Asked { model, class, prompt, sampling, resume };
        let answers = self.answer(&metadata, &extensions, asked).await?;
        Ok(Response::new(Box::pin(answers.map(|event| {
            let event = Some(match event? {
                Event::Started(started) => chat_response::Event::Started(started),
                Event::Chunk(chunk) => chat_response::Event::Chunk(chunk),
                Event::Complete(complete) => chat_response::Event::Complete(complete),
            });
            Ok(ChatResponse { event })
        }))))
    }

    async fn cancel(
        &self,
        request: Request<CancelRequest>,
    ) -> Result<Response<CancelResponse>, Status> {
        let id: RequestId = request.into_inner().request_id.parse().map_err(|error| {
            let message = format!("{error}");
            status(&RequestError::invalid("request_id", "invalid_value", message))
        })?;
        Ok(Response::new(CancelResponse { cancelled: self.router.inside.cancel(id) }))
    }

    async fn tokenize(
        &self,
        request: Request<TokenizeRequest>,
    ) -> Result<Response<TokenizeResponse>, Status> {
        let answer = tokens::tokenize(&self.router, request.into_inner()).await;
        answer.map(Response::new).map_err(|error| status(&error))
    }

    async fn detokenize(
        &self,
        request: Request<DetokenizeRequest>,
    ) -> Result<Response<DetokenizeResponse>, Status> {
        let answer = tokens::detokenize(&self.router, request.into_inner());
        answer.map(Response::new).map_err(|error| status(&error))
    }

    async fn list_models(
        &self,
        _request: Request<ListModelsRequest>,
    ) -> Result<Response<ListModelsResponse>, Status> {
        let models = self.router.cluster.all_served().into_iter().flat_map(|served| {
            served.groups.into_iter().map(move |group| v1::Model {
                id: served.model.to_string(),
                max_context: group.max_context,
                numerics_id: group.numerics.to_string(),
                prefill_nodes: group.prefill_nodes,
                decode_nodes: group.decode_nodes,
            })
        });
        Ok(Response::new(ListModelsResponse { models: models.collect() }))
    }
}

impl InferenceService {
    async fn answer(
        &self,
        metadata: &MetadataMap,
        extensions: &Extensions,
        asked: Asked,
    ) -> Result<impl Stream<Item = Result<Event, Status>> + Send + use<>, Status> {
        let Asked { model, class, prompt, sampling, resume } = asked;
        let submitted = async {
            let wire = sampling.unwrap_or_default();
            let goes_on = resume.is_some();
            let had =
                resume.map(|resume| Had::parse(resume, &wire)).transpose()?.unwrap_or_default();
            let mut sampling = convert::sampling(&wire, rand::rng().random());
            if had.has_first_token() {
                // They came with it.
                sampling.prompt_logprobs = None;
            }
            let v1::Sampling { max_tokens, stop, ignore_eos, stop_token_ids, n, .. } = wire;
            if max_tokens == Some(0) {
                let message = "max_tokens is 0; it must be at least 1";
                return Err(RequestError::invalid("sampling.max_tokens", "invalid_value", message));
            }
            let caller = extensions.get::<Caller>().cloned();
            let caller =
                caller.ok_or_else(|| RequestError::Internal("no request id".to_owned()))?;
            let (model, prompt) = (ModelId(model.into()), prompt?);
            let deadline = deadline(metadata);
            let ask = Ask {
                caller,
                model,
                class: (!class.is_empty()).then_some(NamedClass { param: "class", name: class }),
                prompts: vec![prompt],
                sampling,
                seeded: true,
                grammar_param: "grammar",
                choices: n.unwrap_or(1),
                keep: n.unwrap_or(1),
                echo: false,
                max_tokens,
                stop,
                stop_token_ids: stop_token_ids.into_iter().map(TokenId).collect(),
                ignore_eos,
                deadline,
                before: had.before(),
                instead_of: had.request(),
            };
            let answer = self.router.submit(ask).await?;
            if goes_on {
                self.router.metrics.took_up(TokensFrom::client);
            }
            Ok((answer, had))
        };
        let (answer, had) = submitted.await.map_err(|error| status(&error))?;
        let started = Started {
            request_id: answer.id.to_string(),
            model: answer.model.to_string(),
            seed: answer.seed,
            prompt_tokens: answer.prompts[0].len() as u32,
        };
        let first = stream::once(async { Ok(Event::Started(started)) });
        let rest = Some(Rest { answer, had }).filter(Rest::is_due);
        Ok(first.chain(stream::unfold(rest, next)))
    }
}

/// What is to be said yet.
struct Rest {
    answer: Answer,
    had: Had,
}

impl Rest {
    fn is_due(&self) -> bool {
        !self.answer.is_over()
    }
}

/// The next event, and the rest unless there is none.
async fn next(rest: Option<Rest>) -> Option<(Result<Event, Status>, Option<Rest>)> {
    let mut rest = rest?;
    Some(loop {
        match rest.answer.next().await {
            Ok(Said::Chunk(chunk)) if rest.had.has(&chunk) => {}
            Ok(Said::Chunk(chunk)) => {
                break (Ok(Event::Chunk(wire_chunk(rest.answer.id, chunk))), Some(rest));
            }
            Ok(Said::End(end)) => {
                break (Ok(Event::Complete(complete(end))), Some(rest).filter(Rest::is_due));
            }
            Err(error) => break (Err(status(&error)), None),
        }
    })
}

fn wire_chunk(id: RequestId, chunk: Chunk) -> v1::Chunk {
    let Chunk { choice, index, tokens, text, calls, prompt_logprobs, .. } = chunk;
    let call = |CallPiece { index, name, arguments }: CallPiece| v1::ToolCall {
        id: name.as_ref().map_or_else(String::new, |_| call_id(id, choice, index)),
        name: name.unwrap_or_default(),
        arguments,
        index,
    };
    v1::Chunk {
        tool_calls: calls.into_iter().map(call).collect(),
        prompt_logprobs: prompt_logprobs.iter().map(convert::logprobs).collect(),
        choice: choice.0.into(),
        index,
        token_ids: tokens.iter().map(|sampled| sampled.token.0).collect(),
        text,
        logits_digests: tokens.iter().map(|sampled| sampled.logits_digest).collect(),
        logprobs: tokens
            .iter()
            .filter_map(|sampled| sampled.logprobs.as_deref().map(convert::logprobs))
            .collect(),
    }
}

fn complete(End { choice, reason, called, usage, timings, .. }: End) -> v1::Complete {
    let finish_reason = match reason {
        FinishReason::Stop if called => v1::FinishReason::ToolCalls,
        reason => reason.into(),
    };
    let finish_reason = finish_reason.into();
    let choice = choice.0.into();
    v1::Complete { finish_reason, usage: Some(usage), timings: Some(timings), choice }
}

/// `grpc-timeout`: at most eight digits and a unit.
pub(crate) fn deadline(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let amount: u32 = Some(digits).filter(|digits| digits.len() <= 8)?.parse().ok()?;
    let unit = match unit {
        "H" => Duration::from_secs(3600),
        "M" => Duration::from_secs(60),
        "S" => Duration::from_secs(1),
        "m" => Duration::from_millis(1),
        "u" => Duration::from_micros(1),
        "n" => Duration::from_nanos(1),
        _ => return None,
    };
    Some(unit * amount)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_are_read_as_the_protocol_writes_them() {
        for (text, expected) in [
            ("3S", Some(Duration::from_secs(3))),
            ("1500m", Some(Duration::from_millis(1500))),
            ("99999999H", Some(Duration::from_secs(3600) * 99_999_999)),
            ("", None),
            ("S", None),
            ("5", None),
            ("123456789S", None),
            ("-1S", None),
        ] {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().unwrap());
            assert_eq!(deadline(&metadata), expected, "{text:?}");
        }
    }
}
