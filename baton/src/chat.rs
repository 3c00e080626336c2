//! `baton chat`: a conversation in the terminal.
//!
//! Ctrl-C stops the answer that is being written; Ctrl-D leaves.

use std::io::{self, BufRead, IsTerminal, Write};

use baton_proto::v1::{Message, Sampling};
use tokio::{signal, sync::mpsc};

use crate::client::{Client, ClientError, Said, message};

#[derive(Clone, Debug, clap::Args)]
pub(crate) struct ChatArgs {
    /// Where the cluster's API listens.
    #[arg(long, default_value = "http://127.0.0.1:8000", env = "BATON_URL")]
    url: String,
    /// Which of the cluster's models answers; the first one if left out.
    #[arg(long)]
    model: Option<String>,
    /// Instructions that stand before the conversation.
    #[arg(long)]
    system: Option<String>,
    /// 0 always takes the likeliest token; up to 2.
    #[arg(long, default_value_t = 0.7)]
    temperature: f32,
    /// Makes the answers repeatable.
    #[arg(long)]
    seed: Option<u64>,
    /// The most tokens in one answer; what the context leaves if left out.
    #[arg(long)]
    max_tokens: Option<u32>,
}

pub(crate) async fn chat(args: ChatArgs) -> Result<(), ClientError> {
    let mut client = Client::connect(&args.url).await?;
    let model = client.model(args.model.clone()).await?;
    let sampling = Sampling {
        temperature: Some(args.temperature),
        seed: args.seed,
        max_tokens: args.max_tokens,
        ..Sampling::default()
    };
    let interactive = io::stdin().is_terminal();
    if interactive {
        println!("{model} at {}. Ctrl-C stops an answer, Ctrl-D leaves.", client.url());
    }

    let mut history: Vec<Message> =
        args.system.iter().map(|system| message("system", system)).collect();
    let mut lines = input_lines();
    loop {
        if interactive {
            print!("> ");
            flush();
        }
        let line = tokio::select! {
            line = lines.recv() => line,
            _ = signal::ctrl_c() => { println!(); continue }
        };
        let Some(line) = line else { break };
        if line.trim().is_empty() {
            continue;
        }
        history.push(message("user", &line));
        match answer(&mut client, &model, &history, &sampling).await {
            Ok(text) => history.push(message("assistant", &text)),
            // A refused question (too long, say) leaves the conversation as it was.
            Err(ClientError::Refused { message, .. }) if interactive => {
                history.pop();
                println!("[{message}]");
            }
            Err(error) => return Err(error),
        }
    }
    if interactive {
        println!();
    }
    Ok(())
}

/// Shows one answer as it comes and returns it; a cancelled one as far as it got.
async fn answer(
    client: &mut Client,
    model: &str,
    history: &[Message],
    sampling: &Sampling,
) -> Result<String, ClientError> {
    let mut answer = client.chat(model, history.to_vec(), sampling.clone()).await?;
    let mut text = String::new();
    loop {
        let said = tokio::select! {
            said = answer.next() => said?,
            _ = signal::ctrl_c() => {
                println!(" [stopped]");
                return Ok(text);
            }
        };
        match said {
            Said::Text(piece) => {
                print!("{piece}");
                flush();
                text.push_str(&piece);
            }
            Said::Complete(_) => {
                println!();
                return Ok(text);
            }
        }
    }
}

/// Lines of standard input, read by a thread of its own since such a read can't be given up.
fn input_lines() -> mpsc::Receiver<String> {
    let (send, receive) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in io::stdin().lock().lines().map_while(Result::ok) {
            if send.blocking_send(line).is_err() {
                break;
            }
        }
    });
    receive
}

/// Output to a terminal that is gone concerns nobody.
fn flush() {
    let _ = io::stdout().flush();
}
