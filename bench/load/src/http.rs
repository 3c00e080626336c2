//! OpenAI's chat completions, as cheap as can be: answers are made beforehand, one write each, or one a chunk.

use std::{
    collections::HashMap,
    fmt::Write,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use memchr::memmem;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

pub(crate) struct Server(TcpListener);

impl Server {
    pub(crate) async fn bind() -> anyhow::Result<Self> {
        Ok(Server(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?))
    }

    pub(crate) fn address(&self) -> anyhow::Result<SocketAddr> {
        Ok(self.0.local_addr()?)
    }

    pub(crate) async fn serve(self, apart: Duration) -> anyhow::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = self.0.accept().await?;
            stream.set_nodelay(true)?;
            connections.spawn(answer_all(stream, apart));
            while connections.try_join_next().is_some() {}
        }
    }
}

/// Requests of one connection, one after another.
async fn answer_all(mut stream: TcpStream, apart: Duration) -> anyhow::Result<()> {
    let mut answers: HashMap<usize, Vec<Vec<u8>>> = HashMap::new();
    let mut read = Vec::with_capacity(1 << 14);
    loop {
        let length = loop {
            if let Some(length) = whole(&read)? {
                break length;
            }
            if stream.read_buf(&mut read).await? == 0 {
                return Ok(());
            }
        };
        let request = &read[..length];
        if request.starts_with(b"POST /v1/") {
            let chunks = number_after(request, b"\"max_tokens\":").unwrap_or(1);
            let answer = answers.entry(chunks).or_insert_with(|| match apart {
                Duration::ZERO => vec![answer(chunks).concat()],
                _ => answer(chunks),
            });
            for (index, piece) in answer.iter().enumerate() {
                if index > 0 {
                    tokio::time::sleep(apart).await;
                }
                stream.write_all(piece).await?;
            }
        } else {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").await?;
        }
        read.drain(..length);
    }
}

/// How long the first request is, if all of it is there.
fn whole(read: &[u8]) -> anyhow::Result<Option<usize>> {
    let Some(head) = memmem::find(read, b"\r\n\r\n") else { return Ok(None) };
    let body = number_after(&read[..head + 2], b"content-length: ").unwrap_or(0);
    let length = head + 4 + body;
    Ok((read.len() >= length).then_some(length))
}

fn number_after(text: &[u8], name: &[u8]) -> Option<usize> {
    let from = memmem::find(text, name)? + name.len();
    let digits: Vec<u8> = text[from..].iter().copied().take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

/// A stream of so many chunks, each in a chunk of its own; its head comes with the first, its end with the last.
fn answer(chunks: usize) -> Vec<Vec<u8>> {
    let mut text = String::from(
        "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
    );
    let say = |text: &mut String, data: &str| {
        let _ = write!(text, "{:x}\r\ndata: {data}\n\n\r\n", data.len() + 8);
    };
    let mut pieces = Vec::new();
    for _ in 0..chunks {
        say(
            &mut text,
            r#"{"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"mock","choices":[{"index":0,"delta":{"content":" word"},"finish_reason":null}]}"#,
        );
        pieces.push(std::mem::take(&mut text));
    }
    let mut text = pieces.pop().unwrap_or(text);
    say(
        &mut text,
        r#"{"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"mock","choices":[{"index":0,"delta":{},"finish_reason":"length"}]}"#,
    );
    let usage = format!(
        r#"{{"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1700000000,"model":"mock","choices":[],"usage":{{"prompt_tokens":128,"completion_tokens":{chunks},"total_tokens":{}}}}}"#,
        128 + chunks
    );
    say(&mut text, &usage);
    say(&mut text, "[DONE]");
    text.push_str("0\r\n\r\n");
    pieces.push(text);
    pieces.into_iter().map(String::into_bytes).collect()
}
