//! A client that goes on at another router when its stream breaks off, as `Last-Event-ID` lets it.

use std::{
    io::{BufRead, BufReader, Write},
    net::{SocketAddr, TcpStream},
    sync::{
        OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use crate::Ask;

/// Of one answer, from its first request to its last event.
const PATIENCE: Duration = Duration::from_secs(60);
/// Between requests that nobody answers.
const PAUSE: Duration = Duration::from_millis(50);

/// Asks any of several routers.
#[derive(Clone, Debug)]
pub struct Reader {
    pub urls: Vec<String>,
    /// A router that says nothing for so long is left for another.
    pub silence: Duration,
}

/// How far an answer is, for others to see.
#[derive(Debug, Default)]
pub struct Progress {
    /// The request's id at the router that began it.
    pub id: OnceLock<String>,
    tokens: AtomicUsize,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    pub text: String,
    /// How often it was asked for again, because its stream broke off or said nothing.
    pub resumed: u32,
    /// How often it was told to come later.
    pub put_off: u32,
    /// The longest time without a token, that to the first one included.
    pub longest_pause: Duration,
    latest: Instant,
    last_id: Option<String>,
}

/// What came of asking once.
enum Came {
    Whole,
    /// It broke off, or nobody answered.
    Broken,
    Later,
}

impl Progress {
    /// Tokens its client has.
    pub fn tokens(&self) -> usize {
        self.tokens.load(Ordering::Relaxed)
    }
}

impl Reader {
    /// Reads an answer to its end, beginning at one of the routers, and going on at the next.
    pub fn read(&self, ask: &Ask, at: usize, progress: &Progress) -> anyhow::Result<Answer> {
        let (body, begun) = (body(ask).to_string(), Instant::now());
        let mut answer = Answer {
            text: String::new(),
            resumed: 0,
            put_off: 0,
            longest_pause: Duration::ZERO,
            latest: begun,
            last_id: None,
        };
        for url in self.urls.iter().cycle().skip(at) {
            ensure!(begun.elapsed() < PATIENCE, "no answer within {PATIENCE:?}: {answer:?}");
            match self.once(url, &body, &mut answer, progress)? {
                Came::Whole => return Ok(answer),
                Came::Broken => answer.resumed += 1,
                Came::Later => answer.put_off += 1,
            }
            sleep(PAUSE);
        }
        bail!("there is no router")
    }

    /// Asks one router, and reads nothing: whoever drops what there is leaves.
    pub fn begin(&self, url: &str, ask: &Ask) -> anyhow::Result<TcpStream> {
        self.send(url, &body(ask).to_string(), None)
    }

    fn once(
        &self,
        url: &str,
        body: &str,
        answer: &mut Answer,
        progress: &Progress,
    ) -> anyhow::Result<Came> {
        let Ok(stream) = self.send(url, body, answer.last_id.as_deref()) else {
            return Ok(Came::Broken);
        };
        let mut lines = BufReader::new(stream).lines().map_while(Result::ok);
        let Some(status) = lines.next() else { return Ok(Came::Broken) };
        let status = status.split(' ').nth(1).context("a status line")?.to_owned();
        if status != "200" {
            let said: Vec<String> = lines.collect();
            let is_for_later = ["429", "503"].contains(&&*status);
            ensure!(is_for_later, "{url} answers {status}: {said:?} after {answer:?}");
            return Ok(Came::Later);
        }
        let mut id = None;
        for line in lines {
            if let Some(given) = line.strip_prefix("id: ") {
                id = Some(given.to_owned());
            }
            let Some(data) = line.strip_prefix("data: ") else { continue };
            if data == "[DONE]" {
                return Ok(Came::Whole);
            }
            let chunk: Value = serde_json::from_str(data).with_context(|| data.to_owned())?;
            ensure!(chunk["error"].is_null(), "{url} says {chunk} after {answer:?}");
            let text = chunk["choices"][0]["text"].as_str().context("a chunk has text")?;
            answer.take(text, id.clone());
            progress.tokens.store(answer.text.len(), Ordering::Relaxed);
            let _ = progress.id.set(chunk["id"].as_str().context("a chunk has an id")?.to_owned());
        }
        Ok(Came::Broken)
    }

    /// An answer in HTTP/1.0 is over when its connection is, and has no frames.
    fn send(&self, url: &str, body: &str, last_id: Option<&str>) -> anyhow::Result<TcpStream> {
        let address: SocketAddr = url.strip_prefix("http://").context("a url")?.parse()?;
        let mut stream = TcpStream::connect_timeout(&address, self.silence)?;
        stream.set_read_timeout(Some(self.silence))?;
        let last = last_id.map(|id| format!("last-event-id: {id}\r\n")).unwrap_or_default();
        let length = body.len();
        let head = format!(
            "POST /v1/completions HTTP/1.0\r\nhost: {address}\r\ncontent-type: application/json\r\n\
             {last}content-length: {length}\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat())?;
        Ok(stream)
    }
}

impl Answer {
    fn take(&mut self, text: &str, id: Option<String>) {
        if !text.is_empty() {
            self.longest_pause = self.longest_pause.max(self.latest.elapsed());
            self.latest = Instant::now();
        }
        self.text += text;
        self.last_id = id;
    }
}

fn body(ask: &Ask) -> Value {
    let prompt: Vec<u32> = ask.prompt.iter().map(|token| token.0).collect();
    json!({
        "model": "sim", "prompt": prompt, "max_tokens": ask.max_tokens, "stream": true,
        "temperature": ask.sampling.temperature, "seed": ask.sampling.seed,
    })
}
