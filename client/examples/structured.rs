//! An answer that matches a schema, and one that calls a tool:
//! `cargo run -p baton-client --example structured -- http://127.0.0.1:8000`.

#![allow(clippy::print_stdout, reason = "a command line tool speaks there")]

use baton_client::{Client, Request, Tool, ToolChoice};

const PERSON: &str = r#"{
    "type": "object",
    "properties": { "age": { "type": "integer", "minimum": 10, "maximum": 99 } },
    "required": ["age"], "additionalProperties": false
}"#;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).unwrap_or_else(|| "http://127.0.0.1:8000".to_owned());
    let client = Client::new([url])?;
    let model = client.models().await?.remove(0).id;

    let question = Request::chat(&*model, []).user("How old is Ada?").json_schema(PERSON);
    println!("{}", client.answer(question).await?.text());

    let tool = Tool { name: "look_up".into(), parameters: PERSON.into(), ..Tool::default() };
    let question = Request::chat(&*model, []).user("Look somebody up.");
    let question = question.tool(tool).tool_choice(ToolChoice::Required).max_tokens(200);
    let answer = client.answer(question).await?;
    for call in &answer.choices[0].tool_calls {
        println!("{}({})", call.name, call.arguments);
    }
    Ok(())
}
