//! The first answer: one built-in prompt through the public API, shown as it comes.

use std::io::{self, Write};

use baton_proto::v1::{Complete, Sampling};

use crate::client::{Client, ClientError, Said, message};

const PROMPT: &str = "In two sentences: why do relay runners hand over a baton?";
const MAX_TOKENS: u32 = 96;

/// Asks and shows the answer; greedy, so that it is the same every time.
pub(super) async fn answer(client: &mut Client) -> Result<Complete, ClientError> {
    println!("\n> {PROMPT}\n");
    let model = client.model(None).await?;
    let sampling =
        Sampling { temperature: Some(0.0), max_tokens: Some(MAX_TOKENS), ..Sampling::default() };
    let mut answer = client.chat(&model, vec![message("user", PROMPT)], sampling).await?;
    loop {
        match answer.next().await? {
            Said::Text(text) => {
                print!("{}", printable(&text));
                // A terminal that is gone concerns nobody.
                let _ = io::stdout().flush();
            }
            Said::Complete(complete) => {
                println!("\n");
                return Ok(complete);
            }
        }
    }
}

/// The simulated engine speaks in arbitrary bytes: nothing of it may steer the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '\u{fffd}' } else { c }).collect()
}
