//! Clients that count tokens.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, ensure};
use baton_node::transport;
use baton_proto::{
    node::v1::{
        DecodeRunRequest, SequenceSpec, decode_client::DecodeClient, decode_run_response::Event,
    },
    v1::{
        GenerateRequest, Sampling, generate_request::Prompt, generate_response,
        inference_client::InferenceClient,
    },
};
use futures::future::BoxFuture;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::transport::Channel;

use crate::{
    load::{Notes, OneWay, Path, TOKENS},
    source::MODEL,
};

/// Connections that gRPC clients share.
const CONNECTIONS: usize = 8;

type Client = BoxFuture<'static, anyhow::Result<Vec<OneWay>>>;

/// A client for each of `streams`.
pub(crate) async fn all(
    path: &Path,
    streams: usize,
    notes: impl Fn(usize) -> Notes,
) -> anyhow::Result<Vec<Client>> {
    let dial = |address: &str| -> anyhow::Result<Vec<Channel>> {
        (0..CONNECTIONS).map(|_| Ok(transport::dial(address)?)).collect()
    };
    let channels = match path {
        Path::Straight(address) | Path::Generate(address) => dial(address)?,
        Path::Http(_) => Vec::new(),
    };
    let client = |stream| -> Client {
        let notes = notes(stream);
        match path {
            Path::Straight(_) => Box::pin(straight(channels[stream % CONNECTIONS].clone(), notes)),
            Path::Generate(_) => Box::pin(generate(channels[stream % CONNECTIONS].clone(), notes)),
            Path::Http(address) => Box::pin(http(*address, notes)),
        }
    };
    Ok((0..streams).map(client).collect())
}

/// A stream's prompt is its number.
fn prompt(notes: &Notes) -> String {
    format!("{:06}", notes.stream())
}

async fn straight(channel: Channel, mut notes: Notes) -> anyhow::Result<Vec<OneWay>> {
    let tokens = prompt(&notes).bytes().map(u32::from).collect();
    let sequence = Some(SequenceSpec { tokens, ..SequenceSpec::default() });
    let request = DecodeRunRequest { sequence, ..DecodeRunRequest::default() };
    let mut stream = DecodeClient::new(channel).run(request).await?.into_inner();
    // As if the first token had come.
    notes.arrived(1);
    while let Some(message) = stream.message().await? {
        if let Some(Event::Tokens(tokens)) = message.event
            && !notes.arrived(tokens.tokens.len())
        {
            break;
        }
    }
    Ok(notes.ways)
}

async fn generate(channel: Channel, mut notes: Notes) -> anyhow::Result<Vec<OneWay>> {
    let sampling = Sampling { max_tokens: Some(TOKENS as u32), ..Sampling::default() };
    let prompt = Some(Prompt::Text(prompt(&notes)));
    let request = GenerateRequest {
        model: MODEL.to_owned(),
        prompt,
        sampling: Some(sampling),
        ..GenerateRequest::default()
    };
    let mut stream = InferenceClient::new(channel).generate(request).await?.into_inner();
    let mut is_first = true;
    while let Some(message) = stream.message().await? {
        let Some(generate_response::Event::Chunk(chunk)) = message.event else { continue };
        if chunk.token_ids.is_empty() {
            continue;
        }
        if std::mem::take(&mut is_first) {
            // The plain relay has no prefill.
            notes.arrived(chunk.index as usize);
        }
        if !notes.arrived(chunk.token_ids.len()) {
            break;
        }
    }
    Ok(notes.ways)
}

async fn http(address: SocketAddr, mut notes: Notes) -> anyhow::Result<Vec<OneWay>> {
    let body = serde_json::json!({
        "model": MODEL, "prompt": prompt(&notes), "max_tokens": TOKENS, "stream": true,
    });
    let body = body.to_string();
    let head = format!(
        "POST /v1/completions HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n",
        body.len()
    );
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all((head + &body).as_bytes()).await?;
    let (mut buffer, mut end) = (vec![0; 64 << 10], 0);
    loop {
        let read = stream.read(&mut buffer[end..]).await?;
        ensure!(read > 0, "the connection ended: {}", String::from_utf8_lossy(&buffer[..end]));
        end += read;
        let (tokens, used) = texts(&buffer[..end]);
        buffer.copy_within(used..end, 0);
        end -= used;
        if !notes.arrived(tokens) {
            return Ok(notes.ways);
        }
    }
}

/// How many letters the whole events in `bytes` have, and how far those events go. Each token is a
/// letter.
fn texts(bytes: &[u8]) -> (usize, usize) {
    const TEXT: &[u8] = b"\"text\":\"";
    let Some(used) = bytes.windows(2).rposition(|two| two == b"\n\n") else { return (0, 0) };
    let (mut letters, mut rest) = (0, &bytes[..used]);
    while let Some(at) = rest.windows(TEXT.len()).position(|window| window == TEXT) {
        rest = &rest[at + TEXT.len()..];
        letters += rest.iter().position(|&byte| byte == b'"').unwrap_or(0);
    }
    (letters, used + 2)
}

pub(crate) async fn wait_until_open(address: SocketAddr) -> anyhow::Result<()> {
    let opening = async {
        while TcpStream::connect(address).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), opening).await.context("a relay that listens")
}
