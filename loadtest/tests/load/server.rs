//! An OpenAI-compatible server that does as it is told.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use serde_json::{Value, json};

/// What becomes of a request for an answer.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// These words, one a chunk.
    Words(Vec<String>),
    /// So long before the first.
    Late(Duration, Vec<String>),
    /// A status, and an error object's code and message.
    Status(u16, &'static str, &'static str),
    /// Two words, and nothing more, ever.
    Stalls,
    /// Two words, and the connection is gone.
    CutsOff,
}

/// A request that was heard.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) headers: String,
    pub(crate) body: Value,
}

impl Asked {
    pub(crate) fn output(&self) -> usize {
        self.body["max_tokens"].as_u64().unwrap_or(0) as usize
    }

    pub(crate) fn content(&self) -> &str {
        self.body["messages"][0]["content"].as_str().unwrap_or_default()
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) asked: Arc<Mutex<Vec<Asked>>>,
}

/// So many words.
pub(crate) fn words(asked: &Asked) -> Vec<String> {
    (0..asked.output()).map(|nth| format!(" w{nth}")).collect()
}

impl Server {
    /// Answers each request, counted from 0, as `reply` says. The load test's own two questions before a run are among
    /// them. Ends with the process.
    pub(crate) fn start(reply: impl Fn(usize, &Asked) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let (reply, count) = (Arc::new(reply), Arc::new(AtomicUsize::new(0)));
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let heard = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (reply, count, heard) = (reply.clone(), count.clone(), heard.clone());
                thread::spawn(move || {
                    let answer = |asked: Asked| {
                        let number = count.fetch_add(1, Ordering::SeqCst);
                        let said = reply(number, &asked);
                        heard.lock().unwrap().push(asked);
                        said
                    };
                    serve(stream.unwrap(), answer)
                });
            }
        });
        Server { address, asked }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

/// Requests of one connection, until it or an answer ends.
fn serve(stream: TcpStream, answer: impl Fn(Asked) -> Reply) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut reader = BufReader::new(stream.try_clone().ok()?);
    let mut stream = stream;
    loop {
        let (mut head, mut line) = (String::new(), String::new());
        while reader.read_line(&mut line).ok()? > 2 {
            head.push_str(&line);
            line.clear();
        }
        let mut lines = head.lines();
        let path = lines.next()?.split(' ').nth(1)?.to_owned();
        let length = lines
            .filter_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok())
            .next();
        let mut body = vec![0; length.unwrap_or(0)];
        reader.read_exact(&mut body).ok()?;
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        match path.as_str() {
            "/v1/models" => whole(&mut stream, 200, &json!({ "data": [{ "id": "scripted" }] }))?,
            "/tokenize" => whole(&mut stream, 200, &tokens(&body))?,
            "/v1/chat/completions" | "/v1/completions" => {
                let asked = Asked { headers: head, body };
                let prompt = asked.content().split(' ').count();
                play(&mut stream, answer(asked), prompt)?;
            }
            _ => whole(&mut stream, 404, &json!({ "error": { "message": "no such path" } }))?,
        }
    }
}

/// Each word is a token.
fn tokens(body: &Value) -> Value {
    let text = body["prompt"].as_str().unwrap_or_default();
    let strs: Vec<String> = text.split(' ').skip(1).map(|word| format!("Ġ{word}")).collect();
    json!({ "count": strs.len(), "token_strs": strs })
}

fn play(stream: &mut TcpStream, reply: Reply, prompt: usize) -> Option<()> {
    let begin = |stream: &mut TcpStream| {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).ok()
    };
    match reply {
        Reply::Status(status, code, message) => {
            whole(stream, status, &json!({ "error": { "code": code, "message": message } }))
        }
        Reply::Stalls | Reply::CutsOff => {
            begin(stream)?;
            chunk(stream, " one")?;
            chunk(stream, " two")?;
            if matches!(reply, Reply::Stalls) {
                thread::sleep(Duration::from_secs(3600));
            }
            None
        }
        Reply::Words(words) => {
            begin(stream)?;
            all(stream, &words, prompt)
        }
        Reply::Late(by, words) => {
            begin(stream)?;
            thread::sleep(by);
            all(stream, &words, prompt)
        }
    }
}

fn all(stream: &mut TcpStream, words: &[String], prompt: usize) -> Option<()> {
    for word in words {
        chunk(stream, word)?;
    }
    // A template of three tokens more.
    let usage = json!({ "prompt_tokens": prompt + 3, "completion_tokens": words.len() });
    event(stream, &json!({ "id": "chatcmpl-1", "choices": [], "usage": usage }).to_string())?;
    event(stream, "[DONE]")?;
    stream.write_all(b"0\r\n\r\n").ok()
}

fn chunk(stream: &mut TcpStream, word: &str) -> Option<()> {
    let choice = json!({ "index": 0, "delta": { "content": word }, "finish_reason": null });
    event(stream, &json!({ "id": "chatcmpl-1", "choices": [choice], "usage": null }).to_string())
}

fn event(stream: &mut TcpStream, data: &str) -> Option<()> {
    let text = format!("data: {data}\n\n");
    stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes()).ok()
}

fn whole(stream: &mut TcpStream, status: u16, body: &Value) -> Option<()> {
    let body = body.to_string();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n\r\n", body.len());
    stream.write_all((head + &body).as_bytes()).ok()
}
