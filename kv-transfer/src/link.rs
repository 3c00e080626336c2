//! One TCP connection: how it is made, tuned, greeted, and how frames go over it. The one place
//! that will know about TLS.

use std::{io, time::Duration};

use baton_transfer_protocol::{Frame, FrameError, Hello, HelloMismatch};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};

/// Kernel buffer each way: a few runs of pages.
const SOCKET_BUFFER: usize = 4 << 20;
/// How long a connection may take until both sides have said hello.
const GREETING: Duration = Duration::from_secs(2);
/// Unacknowledged data this old ends a connection: the peer's machine is gone.
const USER_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    #[error("connecting to {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error("no hello within {GREETING:?}")]
    Greeting,
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Mismatch(#[from] HelloMismatch),
    #[error("the puller stopped reading, and its pages are no longer offered")]
    Overdue,
    #[error("expected {expected}, got {given}")]
    Unexpected { expected: &'static str, given: &'static str },
}

/// A greeted connection.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) reader: FrameReader,
    pub(crate) writer: OwnedWriteHalf,
    pub(crate) peer: Hello,
}

#[derive(Debug)]
pub(crate) struct FrameReader {
    pub(crate) stream: OwnedReadHalf,
    buffer: Vec<u8>,
}

impl Link {
    pub(crate) async fn connect(address: &str, own: &Hello) -> Result<Self, LinkError> {
        let connected = timeout(GREETING, TcpStream::connect(address)).await;
        let stream = connected
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|source| LinkError::Connect { address: address.to_owned(), source })?;
        Self::greet(stream, own).await
    }

    /// Sends the own hello first, so that a refused peer still learns whom it talked to.
    pub(crate) async fn greet(stream: TcpStream, own: &Hello) -> Result<Self, LinkError> {
        tune(&stream)?;
        let (stream, mut writer) = stream.into_split();
        let mut reader = FrameReader { stream, buffer: Vec::new() };
        let greeting = async {
            send(&mut writer, &Frame::Hello(own.clone())).await?;
            reader.next().await
        };
        let peer = match timeout(GREETING, greeting).await.map_err(|_| LinkError::Greeting)?? {
            Frame::Hello(peer) => peer,
            other => return Err(unexpected("a hello", &other)),
        };
        own.check(&peer)?;
        Ok(Link { reader, writer, peer })
    }
}

impl FrameReader {
    /// The next frame. Cancelled in the middle, the stream is of no use any more.
    pub(crate) async fn next(&mut self) -> Result<Frame, LinkError> {
        let mut prefix = [0; 4];
        self.stream.read_exact(&mut prefix).await?;
        self.buffer.resize(Frame::length(prefix)?, 0);
        self.stream.read_exact(&mut self.buffer).await?;
        Ok(Frame::decode(&self.buffer)?)
    }
}

pub(crate) async fn send(writer: &mut OwnedWriteHalf, frame: &Frame) -> Result<(), LinkError> {
    let mut bytes = Vec::with_capacity(64);
    frame.encode(&mut bytes);
    Ok(writer.write_all(&bytes).await?)
}

pub(crate) fn unexpected(expected: &'static str, given: &Frame) -> LinkError {
    let given = match given {
        Frame::Hello(_) => "a hello",
        Frame::Pull(_) => "a pull",
        Frame::Credit { .. } => "credits",
        Frame::Pages(_) => "pages",
        Frame::First(_) => "a first token",
        Frame::Release => "a release",
        Frame::Nack(_) => "a refusal",
        Frame::Abort => "an abort",
        Frame::Extend { .. } => "an extension",
        Frame::Last { .. } => "a last length",
    };
    LinkError::Unexpected { expected, given }
}

fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // The kernel may grant less.
    let _ = socket.set_send_buffer_size(SOCKET_BUFFER);
    let _ = socket.set_recv_buffer_size(SOCKET_BUFFER);
    socket.set_tcp_keepalive(
        &TcpKeepalive::new()
            .with_time(Duration::from_secs(2))
            .with_interval(Duration::from_secs(2)),
    )?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
    Ok(())
}
