//! Any server that speaks OpenAI's API: chat or text completions, streamed.

mod answer;
mod call;
mod connection;
mod framing;
mod pool;
mod refusal;

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use http::{
    HeaderMap, Method, StatusCode,
    header::{HeaderName, HeaderValue},
};
use serde_json::json;

pub(super) use self::call::{models, token_texts};
use self::{
    answer::Stream,
    call::{common_headers, header, tls_config, uris},
    connection::Request,
    pool::Pool,
    refusal::{protocol, refusal},
};
use super::{Access, Api, Ask, Asking, Failure, TargetSpec, failure::Kind, sse::Events};
use crate::heard::Heard;

/// Before a stream that broke is gone on with: at first, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) struct Http {
    /// With the path that is asked.
    servers: Vec<(Pool, String)>,
    next: AtomicUsize,
    asking: Asking,
    headers: HeaderMap,
}

impl Http {
    pub(super) fn new(spec: &TargetSpec, access: &Access, asking: Asking) -> Result<Self, Failure> {
        let path = match asking.api {
            Api::Chat => "/v1/chat/completions",
            Api::Completions => "/v1/completions",
        };
        let tls = tls_config(access)?;
        let servers = uris(spec, path)?
            .iter()
            .map(|url| Ok((Pool::new(url, &tls)?, url.path().to_owned())))
            .collect::<Result<_, Failure>>()?;
        let mut headers = common_headers(spec, access)?;
        headers.insert("x-baton-timings", HeaderValue::from_static("1"));
        if let Some(tenant) = &asking.tenant {
            headers.insert("x-tenant-id", header("the tenant", tenant)?);
        }
        Ok(Http { servers, next: AtomicUsize::new(0), asking, headers })
    }

    /// Some time has passed.
    pub(super) fn tick(&self) {
        self.servers.iter().for_each(|(pool, _)| pool.tick());
    }

    pub(super) async fn ask(&self, ask: Ask, heard: &mut Heard<'_>) -> Result<(), Failure> {
        let begun = Instant::now();
        let whole = self.answer(&ask, heard);
        match tokio::time::timeout(self.asking.timeout, whole).await {
            Ok(result) => result,
            Err(_) => {
                let detail = format!("the answer wasn't whole after {:?}", begun.elapsed());
                Err(Failure::new(Kind::Timeout, "timeout", detail))
            }
        }
    }

    /// Of one connection, or of as many as it takes: who gives its events' ids can be asked for those behind the last
    /// (`Last-Event-ID`).
    async fn answer(&self, ask: &Ask, heard: &mut Heard<'_>) -> Result<(), Failure> {
        let body = self.body(ask);
        let (mut last_id, mut pause) = (None, FIRST_PAUSE);
        loop {
            let turn = self.next.fetch_add(1, Ordering::Relaxed);
            let (pool, path) = &self.servers[turn % self.servers.len()];
            let headers = self.headers(ask, last_id.as_ref())?;
            let request = Request { method: Method::POST, path, headers, body: &body };
            let before = heard.tokens;
            let failure = match self.connection(pool, request, heard, &mut last_id).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            // What has been heard of an answer without ids can't be told from what would be heard again.
            let can_go_on = heard.first.is_none() || last_id.is_some();
            if !(self.asking.resumes && failure.may_pass() && can_go_on) {
                return Err(failure);
            }
            if heard.tokens > before {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            heard.resumed += u32::from(heard.first.is_some());
        }
    }

    async fn connection(
        &self,
        pool: &Pool,
        request: Request<'_>,
        heard: &mut Heard<'_>,
        last_id: &mut Option<HeaderValue>,
    ) -> Result<(), Failure> {
        let mut answering = pool.send(request, || heard.sending()).await?;
        if let Some(id) = answering.request_id.take() {
            heard.request_id = Some(id);
        }
        if answering.status != StatusCode::OK {
            return Err(refusal(answering).await);
        }
        let mut events = Events::default();
        let mut stream = Stream { heard, is_over: false };
        while let Some(data) = answering.connection.data().await? {
            events.push(data).map_err(|error| protocol(error.to_string()))?;
            while let Some(event) = events.next() {
                stream.hear(event.data)?;
                if self.asking.resumes
                    && let Some(id) = event.id
                {
                    *last_id = HeaderValue::from_bytes(id).ok();
                }
            }
        }
        if stream.is_over {
            answering.finish();
            return Ok(());
        }
        Err(Failure::new(Kind::Connection, "cut off", "the stream ended without [DONE]"))
    }

    fn headers(&self, ask: &Ask, last_id: Option<&HeaderValue>) -> Result<HeaderMap, Failure> {
        let mut headers = self.headers.clone();
        headers.insert("x-request-id", header("the request's name", &ask.name)?);
        if let Some(class) = &ask.class {
            headers.insert("x-slo-class", header("the class", class)?);
        }
        if let Some(id) = last_id {
            headers.insert("last-event-id", id.clone());
        }
        if self.asking.declares {
            let objectives =
                [("x-slo-ttft-ms", ask.objectives.ttft), ("x-slo-tpot-ms", ask.objectives.tpot)];
            for (name, objective) in objectives {
                let Some(objective) = objective else { continue };
                let ms = (objective.as_secs_f64() * 1e3).to_string();
                headers.insert(HeaderName::from_static(name), header("the objective", &ms)?);
            }
        }
        Ok(headers)
    }

    fn body(&self, ask: &Ask) -> Vec<u8> {
        let Asking { model, api, temperature, ignore_eos, extra, .. } = &self.asking;
        let mut body = json!({
            "model": model,
            "stream": true,
            "stream_options": { "include_usage": true },
            "max_tokens": ask.output,
            "temperature": temperature,
            "seed": ask.seed,
        });
        match api {
            Api::Chat => body["messages"] = json!(ask.messages),
            Api::Completions => {
                let text: String =
                    ask.messages.iter().map(|message| message.content.as_str()).collect();
                body["prompt"] = text.into();
            }
        }
        if *ignore_eos {
            body["ignore_eos"] = true.into();
        }
        for (name, value) in extra {
            body[name] = value.clone();
        }
        body.to_string().into_bytes()
    }
}
