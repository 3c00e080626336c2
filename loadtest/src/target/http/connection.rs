//! HTTP/1.1 as a client speaks it (RFC 9112): a request, its answer, then the next, each byte read by whoever waits for it.
//!
//! With a library's connection a task of its own reads, and hands each chunk over to the task that asked; at 32 chunks
//! an answer that was as much work as everything else (docs/loadtest.md).

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf, BytesMut};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

use super::{
    framing::{Body, Head, Taken},
    refusal::{broken, protocol},
};
use crate::target::Failure;

/// So much is read at once.
const READ: usize = 16 << 10;

/// With or without TLS.
#[derive(Debug)]
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What is asked: `body` as JSON, if there is one.
#[derive(Clone, Debug)]
pub(super) struct Request<'a> {
    pub(super) method: Method,
    pub(super) path: &'a str,
    pub(super) headers: HeaderMap,
    pub(super) body: &'a [u8],
}

#[derive(Debug)]
pub(super) struct Connection {
    stream: Stream,
    /// Whom it goes to, for errors.
    peer: HeaderValue,
    read: BytesMut,
    /// So many of them are data that was given out.
    given: usize,
    body: Body,
    stays: bool,
}

/// Why a request has no answer.
#[derive(Debug)]
pub(super) enum Unanswered {
    /// Not a byte of it was sent: another connection may have it.
    Unsent(Failure),
    Failed(Failure),
}

impl Connection {
    pub(super) fn new(stream: Stream, peer: HeaderValue) -> Self {
        Connection { stream, peer, read: BytesMut::new(), given: 0, body: Body::Over, stays: true }
    }

    /// Whether another request may be sent: the last answer was read to its end, and the server neither said nor did
    /// anything since.
    pub(super) fn is_free(&mut self) -> bool {
        if !self.stays || self.body != Body::Over {
            return false;
        }
        let mut byte = [0];
        let mut come = ReadBuf::new(&mut byte);
        let mut context = Context::from_waker(std::task::Waker::noop());
        self.left().is_empty()
            && Pin::new(&mut self.stream).poll_read(&mut context, &mut come).is_pending()
    }

    /// Sends it and waits for an answer's head; `host` is what it names the server. Its body is [`Self::data`]'s.
    ///
    /// # Errors
    ///
    /// [`Unanswered::Unsent`] when the connection had ended before.
    pub(super) async fn ask(
        &mut self,
        host: &HeaderValue,
        request: &Request<'_>,
    ) -> Result<(StatusCode, Option<String>), Unanswered> {
        let bytes = request.bytes(host);
        self.send(&bytes).await?;
        self.head().await.map_err(Unanswered::Failed)
    }

    /// Sends all of it, or until an answer comes: who refuses a long request needn't read it.
    async fn send(&mut self, bytes: &[u8]) -> Result<(), Unanswered> {
        let mut sent = 0;
        self.stays = false;
        let result = std::future::poll_fn(|context| {
            while sent < bytes.len() {
                match Pin::new(&mut self.stream).poll_write(context, &bytes[sent..]) {
                    Poll::Ready(Ok(0)) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                    Poll::Ready(Ok(more)) => sent += more,
                    // What it said before it closed is worth reading.
                    Poll::Ready(Err(_)) if sent > 0 => return Poll::Ready(Ok(false)),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                    Poll::Pending => {
                        ready!(poll_more(&mut self.stream, &mut self.read, context))?;
                        return Poll::Ready(Ok(false));
                    }
                }
            }
            Pin::new(&mut self.stream).poll_flush(context).map_ok(|()| true)
        });
        match result.await {
            Ok(is_whole) => {
                self.stays = is_whole;
                Ok(())
            }
            Err(error) if sent == 0 => Err(Unanswered::Unsent(broken(&error, &self.peer))),
            Err(error) => Err(Unanswered::Failed(broken(&error, &self.peer))),
        }
    }

    async fn head(&mut self) -> Result<(StatusCode, Option<String>), Failure> {
        loop {
            let parsed = Head::parse(self.left()).map_err(|error| protocol(error.to_string()))?;
            let Some((head, length)) = parsed else {
                self.more().await?;
                continue;
            };
            self.read.advance(self.given + length);
            self.given = 0;
            if head.status.is_informational() {
                continue;
            }
            self.body = head.body;
            self.stays &= head.stays;
            return Ok((head.status, head.request_id));
        }
    }

    /// The body's next bytes; none at its end.
    pub(super) async fn data(&mut self) -> Result<Option<&[u8]>, Failure> {
        loop {
            let bytes = &self.read[self.given..];
            match self.body.take(bytes).map_err(|error| protocol(error.to_string()))? {
                Taken::Data(length) => {
                    let from = self.given;
                    self.given += length;
                    return Ok(Some(&self.read[from..from + length]));
                }
                Taken::Framing(length) => self.given += length,
                Taken::More if self.body == Body::UntilClosed => {
                    if self.come().await? == 0 {
                        self.body = Body::Over;
                    }
                }
                Taken::More => self.more().await?,
                Taken::Over => return Ok(None),
            }
        }
    }

    /// All of the body that is left, but not more than so many bytes and a read.
    pub(super) async fn all(&mut self, most: usize) -> Result<Vec<u8>, Failure> {
        let mut all = Vec::new();
        while let Some(data) = self.data().await? {
            all.extend_from_slice(data);
            if all.len() > most {
                return Err(protocol(format!("the answer has more than {most} bytes")));
            }
        }
        Ok(all)
    }

    /// What has come and isn't given out.
    fn left(&self) -> &[u8] {
        &self.read[self.given..]
    }

    /// Waits for more, of which there must be some.
    async fn more(&mut self) -> Result<(), Failure> {
        if self.come().await? > 0 {
            return Ok(());
        }
        let early = "it was closed before the answer was whole";
        Err(broken(&io::Error::new(io::ErrorKind::UnexpectedEof, early), &self.peer))
    }

    async fn come(&mut self) -> Result<usize, Failure> {
        self.read.advance(self.given);
        self.given = 0;
        self.read.reserve(READ);
        let come = self.stream.read_buf(&mut self.read).await;
        come.map_err(|error| broken(&error, &self.peer))
    }
}

fn poll_more(
    stream: &mut Stream,
    read: &mut BytesMut,
    context: &mut Context<'_>,
) -> Poll<io::Result<usize>> {
    read.reserve(READ);
    pin!(stream.read_buf(read)).poll(context)
}

impl Request<'_> {
    /// As it is sent.
    fn bytes(&self, host: &HeaderValue) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512 + self.body.len());
        let mut say = |pieces: &[&[u8]]| pieces.iter().for_each(|piece| bytes.extend(*piece));
        say(&[self.method.as_str().as_bytes(), b" ", self.path.as_bytes(), b" HTTP/1.1\r\n"]);
        say(&[b"host: ", host.as_bytes(), b"\r\n"]);
        for (name, value) in &self.headers {
            say(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"]);
        }
        if self.method != Method::GET {
            say(&[b"content-length: ", self.body.len().to_string().as_bytes(), b"\r\n"]);
        }
        say(&[b"\r\n", self.body]);
        bytes
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(context),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
