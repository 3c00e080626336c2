//! Server-sent events that can be taken up again.
//!
//! Each event has an `id`: the stream's and its own number, and how far a client is then (`handle`). A client that
//! lost its connection asks again with `Last-Event-ID`, and gets what came after that, from the latest connection
//! on and to the end: every event once, in order (`exact-stream`).
//!
//! # What becomes of a stream without a client?
//!
//! It waits for one, for the grace period (`timeouts.resume`). Nobody reads it then, so its request
//! soon waits too. After that it is dropped, which cancels the request.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, header},
    response::{IntoResponse, Response},
};
use baton_node::task;
use baton_policy::TenantId;
use futures::Stream;
use tokio::{
    runtime::Handle,
    time::{Instant, Sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::event::Event;
use crate::error::RequestError;

/// How often a silent stream says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(15);
const COMMENT: &[u8] = b":\n\n";
/// Bytes that the latest events take which are kept for who comes again.
const KEPT_BYTES: usize = 64 << 10;

/// Until there are no more.
pub(super) type Events = Pin<Box<dyn Stream<Item = Event> + Send>>;

/// The streams that can be taken up.
#[derive(Debug)]
pub(crate) struct Streams {
    /// How long a reader is left without a word.
    keep_alive: Duration,
    by_name: Mutex<HashMap<String, Known>>,
}

#[derive(Debug)]
struct Known {
    tenant: TenantId,
    shared: Arc<Shared>,
    /// While nobody reads: forgets it when the grace period is over.
    expiry: Option<AbortOnDropHandle<()>>,
}

struct Shared {
    name: String,
    line: Mutex<Line>,
}

/// One stream, whoever reads it.
struct Line {
    events: Option<Events>,
    /// The latest events; the last of them is number `made`.
    kept: VecDeque<Event>,
    kept_bytes: usize,
    made: u64,
    /// Which connection reads: the latest.
    reader: u64,
    /// Of a reader that waits for its turn to end.
    waker: Option<Waker>,
}

/// One connection's view of a stream.
struct Reader {
    shared: Arc<Shared>,
    streams: Weak<Streams>,
    keep_alive: Duration,
    grace: Duration,
    /// Of the connections to this stream.
    number: u64,
    /// Events it has seen.
    seen: u64,
    /// When it last said something,
    spoke: Instant,
    /// and when to look again.
    silence: Pin<Box<Sleep>>,
}

impl Default for Streams {
    fn default() -> Self {
        Streams { keep_alive: KEEP_ALIVE, by_name: Mutex::default() }
    }
}

impl Streams {
    /// Answers a tenant with a new stream, of whose events the client has the first `seen` from elsewhere. `name` is
    /// nobody else's.
    pub(super) fn open(
        self: &Arc<Self>,
        name: String,
        tenant: TenantId,
        events: Events,
        grace: Duration,
        seen: u64,
    ) -> Response {
        let line = Line {
            events: Some(events),
            kept: VecDeque::new(),
            kept_bytes: 0,
            made: seen,
            reader: 0,
            waker: None,
        };
        let shared = Arc::new(Shared { name, line: Mutex::new(line) });
        if !grace.is_zero() {
            let known = Known { tenant, shared: Arc::clone(&shared), expiry: None };
            self.lock().insert(shared.name.clone(), known);
        }
        respond(self.reader(shared, grace, 0, seen))
    }

    /// Takes up the tenant's stream that `last` is an event of, after that event.
    pub(super) fn resume(
        self: &Arc<Self>,
        last: &str,
        tenant: &TenantId,
        grace: Duration,
    ) -> Result<Response, RequestError> {
        let gone = || RequestError::StreamGone { last: last.chars().take(128).collect() };
        let mut parts = last.splitn(3, ':');
        let (name, number) = parts.next().zip(parts.next()).ok_or_else(gone)?;
        let seen: u64 = number.parse().map_err(|_| gone())?;
        let shared = {
            let mut streams = self.lock();
            let known = streams.get_mut(name).filter(|known| known.tenant == *tenant);
            let known = known.ok_or_else(gone)?;
            known.expiry = None;
            Arc::clone(&known.shared)
        };
        let mut line = shared.lock();
        let oldest = line.made - line.kept.len() as u64;
        if !(oldest..=line.made).contains(&seen) {
            return Err(gone());
        }
        line.reader += 1;
        let number = line.reader;
        if let Some(waker) = line.waker.take() {
            waker.wake();
        }
        drop(line);
        Ok(respond(self.reader(shared, grace, number, seen)))
    }

    /// Whether a request asks to take up a stream, and which event it had last.
    pub(super) fn last_event(headers: &HeaderMap) -> Option<&str> {
        headers.get("last-event-id")?.to_str().ok()
    }

    fn reader(
        self: &Arc<Self>,
        shared: Arc<Shared>,
        grace: Duration,
        number: u64,
        seen: u64,
    ) -> Reader {
        let (streams, spoke) = (Arc::downgrade(self), Instant::now());
        let silence = Box::pin(tokio::time::sleep(self.keep_alive));
        Reader { shared, streams, keep_alive: self.keep_alive, grace, number, seen, spoke, silence }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// The event after `seen`, if it can be had; `None` when there are no more.
    fn next(&mut self, name: &str, seen: u64, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if seen < self.made {
            let back = (self.made - seen) as usize;
            let event = &self.kept[self.kept.len() - back];
            return Poll::Ready(Some(event.render(name, seen + 1)));
        }
        let Some(events) = &mut self.events else { return Poll::Ready(None) };
        match events.as_mut().poll_next(cx) {
            Poll::Pending => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
            Poll::Ready(None) => {
                self.events = None;
                Poll::Ready(None)
            }
            Poll::Ready(Some(event)) => {
                self.made += 1;
                let sent = event.render(name, self.made);
                self.keep(event);
                Poll::Ready(Some(sent))
            }
        }
    }

    fn keep(&mut self, event: Event) {
        self.kept_bytes += event.kept_bytes();
        self.kept.push_back(event);
        while self.kept_bytes > KEPT_BYTES
            && self.kept.len() > 1
            && let Some(oldest) = self.kept.pop_front()
        {
            self.kept_bytes -= oldest.kept_bytes();
        }
    }
}

impl Stream for Reader {
    type Item = Result<Bytes, std::convert::Infallible>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let next = {
            let mut line = this.shared.lock();
            if line.reader != this.number {
                return Poll::Ready(None);
            }
            line.next(&this.shared.name, this.seen, cx)
        };
        match next {
            Poll::Ready(Some(event)) => {
                this.seen += 1;
                this.spoke = Instant::now();
                Poll::Ready(Some(Ok(event)))
            }
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => this.keep_alive(cx).map(|()| Some(Ok(Bytes::from_static(COMMENT)))),
        }
    }
}

impl Reader {
    /// Ready when the silence has lasted.
    fn keep_alive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            ready!(self.silence.as_mut().poll(cx));
            let due = self.spoke + self.keep_alive;
            if due <= Instant::now() {
                self.spoke = Instant::now();
                self.silence.as_mut().reset(self.spoke + self.keep_alive);
                return Poll::Ready(());
            }
            self.silence.as_mut().reset(due);
        }
    }
}

/// The stream waits for another connection, unless there is one already.
impl Drop for Reader {
    fn drop(&mut self) {
        let Some(streams) = self.streams.upgrade() else { return };
        let mut known = streams.lock();
        let Some(known) = known.get_mut(&self.shared.name) else { return };
        if self.shared.lock().reader != self.number || Handle::try_current().is_err() {
            return;
        }
        let (name, grace) = (self.shared.name.clone(), self.grace);
        let streams = Arc::downgrade(&streams);
        known.expiry = Some(task::owned(async move {
            tokio::time::sleep(grace).await;
            let Some(streams) = streams.upgrade() else { return };
            // With it goes this task's own handle: it ends here.
            let forgotten = streams.lock().remove(&name);
            drop(forgotten);
        }));
    }
}

fn respond(reader: Reader) -> Response {
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // Proxies that gather answers would hold back the tokens.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(reader)).into_response()
}

impl std::fmt::Debug for Shared {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared").field("name", &self.name).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::BodyDataStream;
    use futures::StreamExt;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    /// Longer than any test takes.
    const GRACE: Duration = Duration::from_secs(600);

    fn events(response: Response) -> BodyDataStream {
        response.into_body().into_data_stream()
    }

    async fn next(events: &mut BodyDataStream) -> Option<String> {
        let event = events.next().await?.unwrap();
        Some(String::from_utf8(event.to_vec()).unwrap())
    }

    fn event(number: u64) -> String {
        format!("id: s:{number}\ndata: {number}\n\n")
    }

    fn nobody() -> TenantId {
        TenantId::default()
    }

    /// A stream whose events are sent by hand, and its first connection.
    fn open(streams: &Arc<Streams>, grace: Duration) -> (mpsc::Sender<String>, BodyDataStream) {
        let (sender, receiver) = mpsc::channel(100);
        let sent = ReceiverStream::new(receiver).map(Event::from);
        let response = streams.open("s".to_owned(), nobody(), Box::pin(sent), grace, 0);
        (sender, events(response))
    }

    #[tokio::test]
    async fn a_broken_stream_goes_on_where_its_client_was() {
        let streams = Arc::new(Streams::default());
        let (sender, mut first) = open(&streams, GRACE);
        for number in 1..=4 {
            sender.try_send(number.to_string()).unwrap();
        }
        for number in 1..=3 {
            assert_eq!(next(&mut first).await, Some(event(number)));
        }
        drop(first);
        // The third was on its way when the connection broke.
        let mut second = events(streams.resume("s:2", &nobody(), GRACE).unwrap());
        sender.try_send("5".to_owned()).unwrap();
        drop(sender);
        for number in 3..=5 {
            assert_eq!(next(&mut second).await, Some(event(number)));
        }
        assert_eq!(next(&mut second).await, None);
        drop(second);
        // Even the end may have been lost on its way.
        let mut third = events(streams.resume("s:4", &nobody(), GRACE).unwrap());
        assert_eq!((next(&mut third).await, next(&mut third).await), (Some(event(5)), None));
    }

    #[tokio::test]
    async fn the_latest_connection_has_the_stream() {
        let streams = Arc::new(Streams::default());
        let (sender, mut first) = open(&streams, GRACE);
        sender.try_send("1".to_owned()).unwrap();
        assert_eq!(next(&mut first).await, Some(event(1)));
        let waiting = task::owned(async move { next(&mut first).await });
        tokio::task::yield_now().await;
        let mut second = events(streams.resume("s:1", &nobody(), GRACE).unwrap());
        assert_eq!(waiting.await.unwrap(), None, "it had the stream no more");
        sender.try_send("2".to_owned()).unwrap();
        assert_eq!(next(&mut second).await, Some(event(2)));
    }

    #[tokio::test]
    async fn nobody_comes_again_and_the_stream_is_dropped() {
        let streams = Arc::new(Streams::default());
        let (sender, first) = open(&streams, Duration::from_millis(20));
        drop(first);
        assert!(!sender.is_closed());
        // Its request is cancelled with it.
        sender.closed().await;
        assert!(streams.lock().is_empty());
        for last in ["s:0", "s", "", "x:1", "s:y"] {
            let refused = streams.resume(last, &nobody(), GRACE).map(drop).unwrap_err();
            assert!(matches!(refused, RequestError::StreamGone { .. }), "{last}");
        }
    }

    #[tokio::test]
    async fn a_silent_stream_says_that_it_lives_and_old_events_are_forgotten() {
        let keep_alive = Duration::from_millis(5);
        let streams = Arc::new(Streams { keep_alive, ..Streams::default() });
        let (sender, mut first) = open(&streams, GRACE);
        assert_eq!(next(&mut first).await.as_deref(), Some(":\n\n"));
        for _ in 0..4 {
            sender.try_send("x".repeat(KEPT_BYTES / 3)).unwrap();
            while next(&mut first).await.as_deref() == Some(":\n\n") {}
        }
        assert!(streams.resume("s:1", &nobody(), GRACE).is_err(), "too long ago");
        assert!(streams.resume("s:5", &nobody(), GRACE).is_err(), "not yet");
        let other = TenantId("other".into());
        assert!(streams.resume("s:2", &other, GRACE).is_err(), "somebody else's");
        assert!(streams.resume("s:2", &nobody(), GRACE).is_ok());
    }
}
