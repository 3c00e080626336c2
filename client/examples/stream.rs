//! Prints an answer as it comes: `cargo run -p baton-client --example stream -- http://127.0.0.1:8000 Tell me a joke`.

#![allow(clippy::print_stdout, reason = "a command line tool speaks there")]

use std::io::Write;

use baton_client::{Client, Event, Request};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    // Several, with commas between them: the stream goes on at another when its own is gone.
    let urls = words.next().unwrap_or_else(|| "http://127.0.0.1:8000".to_owned());
    let question = words.collect::<Vec<_>>().join(" ");
    let client = Client::new(urls.split(','))?;
    let model = client.models().await?.remove(0).id;
    let mut stream = client.stream(Request::chat(model, []).user(question).max_tokens(64)).await?;
    while let Some(event) = stream.next().await {
        match event? {
            Event::Started(started) => println!("request {}", started.request_id),
            Event::Chunk(chunk) => {
                print!("{}", chunk.text);
                std::io::stdout().flush()?;
            }
            Event::Complete(complete) => {
                println!(
                    "\n{:?}, {:?}",
                    complete.finish_reason(),
                    complete.usage.unwrap_or_default()
                );
            }
        }
    }
    Ok(())
}
