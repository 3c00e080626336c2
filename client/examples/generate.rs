#![allow(clippy::print_stdout, reason = "a command line tool speaks there")]

use baton_client::{Client, Event, Request};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    // The routers of one cluster, with commas between them.
    let urls = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8000".to_owned());
    let client = Client::new(urls.split(','))?;
    let model = client.models().await?.remove(0).id;
    let request = Request::text(model, "Once upon a time").max_tokens(32);
    let mut stream = client.stream(request).await?;
    while let Some(event) = stream.next().await {
        if let Event::Chunk(chunk) = event? {
            print!("{}", chunk.text);
        }
    }
    Ok(())
}
