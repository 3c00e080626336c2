//! One answer on its way.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use baton_proto::v1::{chat_response, generate_response};
use futures::{StreamExt, TryStreamExt, stream, stream::BoxStream};
use tokio::time::Instant;
use tonic::{Request as Call, Status, metadata::AsciiMetadataValue};

use crate::{
    Answer, Chunk, Client, Complete, Error, Request, Started, client::header, endpoints::Endpoint,
    progress::Progress, request::Wire,
};

/// What a stream says.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// The first, once.
    Started(Started),
    /// Tokens of one choice, in order, without gaps.
    Chunk(Chunk),
    /// The last of its choice.
    Complete(Complete),
}

/// An answer as it comes. It outlives routers and nodes: the caller sees each token once, whatever breaks meanwhile.
/// Dropping it cancels the request. It ends after its choices' `Complete`s, or with an error.
pub struct Stream {
    events: BoxStream<'static, Result<Event, Error>>,
    started: Started,
    resumed: Arc<AtomicU32>,
}

/// What it takes to go on.
struct Ongoing {
    client: Client,
    request: Request,
    /// What each of its calls carries.
    headers: Vec<(&'static str, AsciiMetadataValue)>,
    progress: Progress,
    connection: Option<Connection>,
    /// In a row.
    failures: u32,
    resumed: Arc<AtomicU32>,
    began: Instant,
}

struct Connection {
    endpoint: Arc<Endpoint>,
    said: BoxStream<'static, Result<generate_response::Event, Status>>,
}

impl Stream {
    pub(crate) async fn begin(client: Client, request: Request) -> Result<Self, Error> {
        client.earn();
        let resumed = Arc::new(AtomicU32::new(0));
        let mut ongoing = Ongoing {
            headers: headers(&request)?,
            progress: Progress::new(request.choices_asked()),
            client,
            request,
            connection: None,
            failures: 0,
            resumed: Arc::clone(&resumed),
            began: Instant::now(),
        };
        let Some(Event::Started(started)) = ongoing.next().await? else {
            return Err(ongoing.protocol("a stream begins with Started"));
        };
        let rest = stream::try_unfold(ongoing, |mut ongoing| async {
            Ok(ongoing.next().await?.map(|event| (event, ongoing)))
        });
        let first = Event::Started(started.clone());
        let events = stream::once(async { Ok(first) }).chain(rest).boxed();
        Ok(Stream { events, started, resumed })
    }

    /// Its first message.
    pub fn started(&self) -> &Started {
        &self.started
    }

    /// How often it went on at another connection.
    pub fn resumed(&self) -> u32 {
        self.resumed.load(Ordering::Relaxed)
    }

    /// What it says next; `None` after its end.
    pub async fn next(&mut self) -> Option<Result<Event, Error>> {
        self.events.next().await
    }

    /// The rest, gathered.
    ///
    /// # Errors
    ///
    /// It broke, and trying again didn't help.
    pub async fn answer(mut self) -> Result<Answer, Error> {
        let mut answer = Answer { started: self.started.clone(), ..Answer::default() };
        while let Some(event) = self.events.try_next().await? {
            answer.hear(event);
        }
        answer.resumed = self.resumed();
        Ok(answer)
    }
}

impl futures::Stream for Stream {
    type Item = Result<Event, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.events.poll_next_unpin(cx)
    }
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (started, resumed) = (&self.started, self.resumed());
        f.debug_struct("Stream").field("started", started).field("resumed", &resumed).finish()
    }
}

impl Ongoing {
    async fn next(&mut self) -> Result<Option<Event>, Error> {
        while !self.progress.is_over() {
            let said = match self.in_time().await? {
                Ok(said) => said,
                Err(status) => {
                    self.recover(&status).await?;
                    continue;
                }
            };
            let heard = self.progress.hear(said).map_err(|what| self.protocol(what))?;
            let Some(event) = heard else { continue };
            if event.is_progress() {
                self.failures = 0;
            }
            return Ok(Some(event));
        }
        Ok(None)
    }

    /// What is said next, unless it comes too late.
    async fn in_time(&mut self) -> Result<Result<generate_response::Event, Status>, Error> {
        let (late, at) = self.due();
        let said = match at {
            Some(at) => tokio::time::timeout_at(at, self.hear()).await.map_err(|_late| late)?,
            None => self.hear().await,
        };
        // A router knows the deadline as well.
        match &said {
            Err(status) if status.code() == tonic::Code::DeadlineExceeded => {
                match self.request.deadline {
                    Some(deadline) => Err(self.deadline(deadline)),
                    None => Ok(said),
                }
            }
            _ => Ok(said),
        }
    }

    /// When it is too late for what comes next, and what is wrong then.
    fn due(&self) -> (Error, Option<Instant>) {
        let first = self.request.first_token_within.filter(|_| !self.progress.has_first_token());
        let request_id = self.progress.request_id().to_owned();
        let whole = self.request.deadline;
        match (first, whole) {
            (Some(within), whole) if whole.is_none_or(|whole| within < whole) => {
                (Error::FirstToken { within, request_id }, Some(self.began + within))
            }
            (_, Some(deadline)) => (self.deadline(deadline), Some(self.began + deadline)),
            _ => (self.deadline(Duration::MAX), None),
        }
    }

    async fn hear(&mut self) -> Result<generate_response::Event, Status> {
        let connection = match &mut self.connection {
            Some(connection) => connection,
            None => {
                let connection = self.connect().await?;
                self.connection.insert(connection)
            }
        };
        let ended = || Status::unavailable("the stream ended before it was complete");
        let said = connection.said.next().await.unwrap_or_else(|| Err(ended()))?;
        connection.endpoint.succeeded();
        Ok(said)
    }

    async fn connect(&mut self) -> Result<Connection, Status> {
        let endpoint = self.client.endpoint();
        let mut client = self.client.inference(&endpoint);
        let wire = self.request.wire(self.progress.seed(), self.progress.resume());
        let empty = || Status::internal("a message says nothing");
        let opened = match wire {
            Wire::Generate(request) => {
                let opened = client.generate(self.call(request)).await;
                opened.map(|said| {
                    let said = said.into_inner();
                    said.map(move |said| said?.event.ok_or_else(empty)).boxed()
                })
            }
            Wire::Chat(request) => {
                let opened = client.chat(self.call(request)).await;
                opened.map(|said| {
                    let said = said.into_inner();
                    said.map(move |said| said?.event.map(as_generated).ok_or_else(empty)).boxed()
                })
            }
        };
        match opened {
            Ok(said) => Ok(Connection { endpoint, said }),
            Err(status) => {
                if Error::refused(&status, "").is_transient() {
                    endpoint.failed();
                }
                Err(status)
            }
        }
    }

    /// A message with what this request's calls carry.
    fn call<T>(&self, message: T) -> Call<T> {
        let mut call = self.client.call(message);
        for (key, value) in &self.headers {
            call.metadata_mut().insert(*key, value.clone());
        }
        if let Some(deadline) = self.request.deadline {
            call.set_timeout(deadline.saturating_sub(self.began.elapsed()));
        }
        call
    }

    /// Prepares another connection, or says why there is none.
    async fn recover(&mut self, status: &Status) -> Result<(), Error> {
        let error = Error::refused(status, self.progress.request_id());
        if let Some(connection) = self.connection.take()
            && error.is_transient()
        {
            connection.endpoint.failed();
        }
        self.failures += 1;
        let Some(pause) = self.client.retry(&error, self.failures) else { return Err(error) };
        let left = self.request.deadline.map(|whole| whole.saturating_sub(self.began.elapsed()));
        if left.is_some_and(|left| left <= pause) {
            return Err(error);
        }
        tokio::time::sleep(pause).await;
        if self.progress.has_first_token() {
            self.resumed.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn deadline(&self, deadline: Duration) -> Error {
        Error::Deadline { deadline, request_id: self.progress.request_id().to_owned() }
    }

    fn protocol(&self, what: impl Into<String>) -> Error {
        Error::Protocol { what: what.into(), request_id: self.progress.request_id().to_owned() }
    }
}

fn headers(request: &Request) -> Result<Vec<(&'static str, AsciiMetadataValue)>, Error> {
    let Request { slo, tenant, name, trace_parent, .. } = request;
    let ms = |time: Option<Duration>| time.map(|time| (time.as_secs_f64() * 1e3).to_string());
    let (ttft, tpot) = (ms(slo.ttft), ms(slo.tpot));
    let given = [
        ("x-tenant-id", "the tenant", tenant),
        ("x-request-id", "the name", name),
        ("traceparent", "the trace", trace_parent),
        ("x-slo-ttft-ms", "the objective", &ttft),
        ("x-slo-tpot-ms", "the objective", &tpot),
    ];
    let given = given.into_iter().filter_map(|(key, what, text)| Some((key, what, text.as_ref()?)));
    given.map(|(key, what, text)| Ok((key, header(what, text)?))).collect()
}

/// Both streams say the same.
fn as_generated(event: chat_response::Event) -> generate_response::Event {
    match event {
        chat_response::Event::Started(started) => generate_response::Event::Started(started),
        chat_response::Event::Chunk(chunk) => generate_response::Event::Chunk(chunk),
        chat_response::Event::Complete(complete) => generate_response::Event::Complete(complete),
    }
}
