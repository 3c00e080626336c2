//! Baton over gRPC.

use std::sync::atomic::{AtomicUsize, Ordering};

use baton_client::{Client, Error, Event, Prompt, Request, Retry, Slo, Tls};

use super::{Access, Api, Ask, Asking, Failure, TargetSpec, failure::Kind};
use crate::{heard::Heard, outcome::Timings};

/// Connections that take turns.
#[derive(Debug)]
pub(crate) struct Grpc {
    clients: Vec<Client>,
    next: AtomicUsize,
    asking: Asking,
}

impl Grpc {
    pub(super) fn new(
        spec: &TargetSpec,
        access: &Access,
        asking: Asking,
        connections: usize,
    ) -> Result<Self, Failure> {
        let clients = (0..connections.max(1))
            .map(|_| client(spec, access, asking.resumes))
            .collect::<Result<_, _>>()?;
        Ok(Grpc { clients, next: AtomicUsize::new(0), asking })
    }

    pub(super) async fn ask(&self, ask: Ask, heard: &mut Heard<'_>) -> Result<(), Failure> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        let client = &self.clients[turn % self.clients.len()];
        heard.sending();
        let mut stream = client.stream(self.request(ask)).await.map_err(|error| failure(&error))?;
        heard.request_id = Some(stream.started().request_id.clone());
        let result = loop {
            match stream.next().await {
                None => break Ok(()),
                Some(Err(error)) => break Err(failure(&error)),
                Some(Ok(event)) => hear(event, heard),
            }
        };
        heard.resumed = stream.resumed();
        result
    }

    fn request(&self, ask: Ask) -> Request {
        let Asking { model, api, temperature, ignore_eos, timeout, declares, tenant, .. } =
            &self.asking;
        let prompt = match api {
            Api::Completions => {
                Prompt::Text(ask.messages.into_iter().map(|message| message.content).collect())
            }
            Api::Chat => Prompt::Chat(
                ask.messages
                    .into_iter()
                    .map(|message| baton_client::Message {
                        role: message.role.to_owned(),
                        content: message.content,
                        ..Default::default()
                    })
                    .collect(),
            ),
        };
        let mut request = Request::new(model.as_str(), prompt)
            .max_tokens(ask.output)
            .temperature(*temperature)
            .seed(ask.seed)
            .deadline(*timeout)
            .name(ask.name);
        request.sampling.ignore_eos = *ignore_eos;
        request.class = ask.class.map(|class| class.as_ref().to_owned());
        request.tenant.clone_from(tenant);
        if *declares {
            request.slo = Slo { ttft: ask.objectives.ttft, tpot: ask.objectives.tpot };
        }
        request
    }
}

fn hear(event: Event, heard: &mut Heard<'_>) {
    match event {
        Event::Started(_) => {}
        Event::Chunk(chunk) => {
            if !chunk.token_ids.is_empty() {
                heard.tokens(chunk.token_ids.len() as u32);
            }
            if let Some(said) = &mut heard.said {
                said.text += &chunk.text;
                said.tokens.extend(chunk.token_ids);
            }
        }
        Event::Complete(complete) => {
            if let Some(usage) = complete.usage {
                heard.prompt_told = Some(usage.prompt_tokens);
                heard.output_told = Some(usage.completion_tokens);
                heard.cached_tokens = usage.cached_tokens;
            }
            heard.timings = complete.timings.as_ref().map(timings);
        }
    }
}

fn timings(told: &baton_client::Timings) -> Timings {
    let us = std::time::Duration::from_micros;
    Timings {
        router_queue: us(told.router_queue_us),
        prefill_queue: us(told.prefill_queue_us),
        prefill: us(told.prefill_us),
        ttft: us(told.ttft_us),
        exposed_transfer: us(told.exposed_transfer_us),
        decode_admission: us(told.decode_admission_us),
        first_decode_step: us(told.first_decode_step_us),
    }
}

pub(super) async fn models(spec: &TargetSpec, access: &Access) -> Result<Vec<String>, Failure> {
    let models = client(spec, access, false)?.models().await.map_err(|error| failure(&error))?;
    Ok(models.into_iter().map(|model| model.id).collect())
}

fn client(spec: &TargetSpec, access: &Access, resumes: bool) -> Result<Client, Failure> {
    let mut builder = Client::builder(&spec.urls);
    if access.ca.is_some() || access.identity.is_some() {
        let (ca, identity) = (access.ca.clone(), access.identity.clone());
        builder = builder.tls(Tls { ca, identity, domain: None });
    }
    if let Some(token) = &access.token {
        builder = builder.bearer_token(token);
    }
    if access.plain_token {
        builder = builder.allow_plain_token();
    }
    // What a server refuses is to be seen, not to be tried again.
    let retry = match resumes {
        true => Retry { budget: 1_000_000, ..Retry::default() },
        false => Retry { attempts: 0, ..Retry::default() },
    };
    builder.retry(retry).build().map_err(|error| failure(&error))
}

fn failure(error: &Error) -> Failure {
    let detail = error.to_string();
    let (kind, reason) = match error {
        Error::Refused(refused) => return refusal(refused),
        Error::FirstToken { .. } | Error::Deadline { .. } => (Kind::Timeout, "timeout"),
        Error::Protocol { .. } => (Kind::Server, "protocol"),
        Error::Endpoint { .. }
        | Error::Tls { .. }
        | Error::PlainToken { .. }
        | Error::Header { .. } => (Kind::Settings, "settings"),
    };
    Failure::new(kind, reason, detail)
}

fn refusal(refused: &baton_client::Refused) -> Failure {
    let code = format!("{:?}", refused.code);
    let is_transport = refused.reason.is_empty();
    let kind = match code.as_str() {
        "ResourceExhausted" => Kind::Overload,
        "Unavailable" if !is_transport => Kind::Overload,
        "Unavailable" => Kind::Connection,
        "Unauthenticated" | "PermissionDenied" => Kind::Credentials,
        "DeadlineExceeded" => Kind::Timeout,
        "Unknown" | "Internal" | "Cancelled" | "Aborted" if is_transport => Kind::Connection,
        _ => Kind::Server,
    };
    let reason = match is_transport {
        true => code,
        false => format!("{code} {}", refused.reason),
    };
    Failure::new(kind, reason, refused.message.clone())
}
