//! Server streams whose work ends with them.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use futures::Stream;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tracing::Instrument;

use crate::{error::RunError, task};

/// Messages the network may lag behind before the work that makes them waits.
const AHEAD: usize = 8;

/// A response stream and the task that fills it. Dropping the stream drops the task's future, and
/// with it everything the request holds: that is how a cancel or a lost caller releases.
#[derive(Debug)]
pub struct Responses<T> {
    messages: mpsc::Receiver<Result<T, Status>>,
    _work: AbortOnDropHandle<()>,
}

/// Where the work puts its messages.
#[derive(Debug)]
pub struct Outgoing<T> {
    messages: mpsc::Sender<Result<T, Status>>,
}

/// The caller is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hangup;

impl<T> Outgoing<T> {
    /// Sends a message, waiting while the caller lags.
    pub async fn send(&self, message: impl Into<T>) -> Result<(), Hangup> {
        self.messages.send(Ok(message.into())).await.map_err(|_closed| Hangup)
    }
}

/// How the work of a stream ended early.
#[derive(Debug)]
pub enum Cut {
    Hangup,
    Error(RunError),
}

impl From<Hangup> for Cut {
    fn from(_: Hangup) -> Self {
        Cut::Hangup
    }
}

impl<E: Into<RunError>> From<E> for Cut {
    fn from(error: E) -> Self {
        Cut::Error(error.into())
    }
}

/// Starts `work`, which answers into the stream; its error becomes the stream's status.
/// `guard` is kept until the work has ended.
pub fn respond<T, G, W, F>(guard: G, span: tracing::Span, work: W) -> Responses<T>
where
    T: Send + 'static,
    G: Send + 'static,
    W: FnOnce(Outgoing<T>) -> F,
    F: Future<Output = Result<(), Cut>> + Send + 'static,
{
    let (sender, messages) = mpsc::channel(AHEAD);
    let work = work(Outgoing { messages: sender.clone() });
    let filling = async move {
        let _guard = guard;
        let mut end = End { begin: Instant::now(), outcome: "cancelled" };
        match work.await {
            Ok(()) => end.outcome = "ok",
            Err(Cut::Hangup) => {}
            Err(Cut::Error(error)) => {
                end.outcome = error.reason();
                // A caller that is gone doesn't need the status.
                let _ = sender.send(Err(error.into())).await;
            }
        }
    };
    let work = task::owned(filling.instrument(span));
    Responses { messages, _work: work }
}

/// Logs how a request ended here, also when it was dropped in the middle.
struct End {
    begin: Instant,
    outcome: &'static str,
}

impl Drop for End {
    fn drop(&mut self) {
        let took_us = self.begin.elapsed().as_micros() as u64;
        tracing::info!(outcome = self.outcome, took_us, "request ended here");
    }
}

impl<T> Stream for Responses<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.messages.poll_recv(cx)
    }
}
