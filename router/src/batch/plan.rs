//! In which order a batch's lines run: those with common prefixes together.
//!
//! The whole batch is known before its first line runs, so what its prompts share can be known too
//! (BatchLLM: Zheng et al. 2024, *Optimizing Large Batched LLM Inference with Global Prefix Sharing
//! and Throughput-oriented Token Batching*). Sorted by prompt, the lines that share the longest
//! prefixes are neighbours, and no other order has neighbours share more. Each line then finds in
//! the prefix cache what the one before left there; in the order of the file a prefix may be evicted
//! before it is asked for again.
//!
//! What is compared is a prompt's text in pieces of [`PIECE`] bytes, each known by its hash: an
//! eighth of the text, in memory for all lines at once, and finer than the blocks that nodes share.
//! It needs no tokeniser, so the order is the same before and after a restart, whatever nodes are
//! there.

use serde_json::{Map, Value};

use super::{
    line::{Line, Span},
    record::Endpoint,
};

/// Bytes that are compared as one: about the text of a block of tokens.
const PIECE: usize = 64;

/// A line that is still to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Planned {
    pub(crate) span: Span,
    key: Box<[u64]>,
}

impl Planned {
    pub(crate) fn new(span: Span, line: &Line, endpoint: Endpoint) -> Self {
        Planned { span, key: key(&line.model, &text(&line.body, endpoint)) }
    }
}

/// Sorts the lines; those that are the same in what is compared stay in the file's order.
pub(crate) fn order(lines: &mut [Planned]) {
    lines.sort_by(|a, b| a.key.cmp(&b.key));
}

/// The model, then the pieces of the prompt.
fn key(model: &str, text: &[u8]) -> Box<[u64]> {
    let hash = |bytes: &[u8]| {
        let digest = blake3::hash(bytes);
        u64::from_be_bytes(*digest.as_bytes().first_chunk().expect("a digest has 32 bytes"))
    };
    std::iter::once(hash(model.as_bytes())).chain(text.chunks(PIECE).map(hash)).collect()
}

/// What the prompt begins with comes first. It needn't be what the template makes of it: equal
/// beginnings have to be equal here, and others different.
fn text(body: &Map<String, Value>, endpoint: Endpoint) -> Vec<u8> {
    let mut text = Vec::new();
    match endpoint {
        Endpoint::Completions => write(&mut text, body.get("prompt").unwrap_or(&Value::Null)),
        Endpoint::Chat => {
            write(&mut text, body.get("tools").unwrap_or(&Value::Null));
            for message in body.get("messages").and_then(Value::as_array).into_iter().flatten() {
                ["role", "content", "tool_calls", "tool_call_id"]
                    .iter()
                    .for_each(|field| write(&mut text, &message[*field]));
            }
        }
    }
    text
}

/// A string as it is, an array of one as that one, everything else as JSON.
fn write(text: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Null => {}
        Value::String(string) => text.extend_from_slice(string.as_bytes()),
        Value::Array(values) if values.len() == 1 => write(text, &values[0]),
        other => text.extend_from_slice(other.to_string().as_bytes()),
    }
    text.push(b'\n');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn planned(number: u64, model: &str, prompt: &str) -> Planned {
        let body = json!({ "model": model, "prompt": prompt }).as_object().unwrap().clone();
        let line = Line { custom_id: number.to_string(), model: model.to_owned(), body };
        Planned::new(Span { offset: 0, length: 0, number }, &line, Endpoint::Completions)
    }

    fn shared(a: &Planned, b: &Planned) -> usize {
        a.key.iter().zip(&b.key).take_while(|(a, b)| a == b).count()
    }

    fn shared_by_neighbours(lines: &[Planned]) -> usize {
        lines.windows(2).map(|pair| shared(&pair[0], &pair[1])).sum()
    }

    /// Prompts of up to four parts, of which there are two kinds: many share a beginning.
    fn lines() -> impl Strategy<Value = Vec<Planned>> {
        let prompt = prop::collection::vec(0..2_usize, 0..5);
        prop::collection::vec((0..2_usize, prompt), 0..40).prop_map(|lines| {
            let part = |kind: &usize| ["x", "y"][*kind].repeat(PIECE);
            let lines = lines.iter().zip(0_u64..).map(|((model, prompt), number)| {
                let prompt: String = prompt.iter().map(part).collect();
                planned(number, ["m", "n"][*model], &prompt)
            });
            lines.collect()
        })
    }

    proptest! {
        /// Every line once; those that share a beginning together, however long it is; and no other
        /// order has neighbours share more.
        #[test]
        fn whatever_shares_a_prefix_is_together(
            (lines, others) in lines().prop_flat_map(|lines| {
                (Just(lines.clone()), Just(lines).prop_shuffle())
            }),
        ) {
            let mut sorted = lines.clone();
            order(&mut sorted);
            let mut numbers: Vec<u64> = sorted.iter().map(|line| line.span.number).collect();
            numbers.sort_unstable();
            prop_assert_eq!(numbers, (0..lines.len() as u64).collect::<Vec<_>>());
            prop_assert!(shared_by_neighbours(&sorted) >= shared_by_neighbours(&others));
            for (index, line) in sorted.iter().enumerate() {
                let with = |other: &Planned| shared(line, other);
                let after: Vec<usize> = sorted[index..].iter().map(with).collect();
                prop_assert!(after.is_sorted_by(|a, b| a >= b), "{after:?}");
            }
            let mut again = others;
            order(&mut again);
            let keys = |lines: &[Planned]| {
                lines.iter().map(|line| line.key.clone()).collect::<Vec<_>>()
            };
            prop_assert_eq!(keys(&again), keys(&sorted));
        }
    }

    #[test]
    fn a_conversation_begins_with_its_tools_and_first_messages() {
        let key = |body: Value| {
            let body = body.as_object().unwrap().clone();
            key("m", &text(&body, Endpoint::Chat))
        };
        let long = "You are terse. ".repeat(20);
        let ask = |question: &str| {
            let system = json!({ "content": long, "role": "system" });
            key(json!({ "messages": [system, { "role": "user", "content": question }] }))
        };
        let (a, b) = (ask("Why?"), ask("When?"));
        let same = a.iter().zip(&b).take_while(|(a, b)| a == b).count();
        assert!(same >= 4 && a != b, "{same}");
        let tools = json!([{ "type": "function" }, { "type": "function" }]);
        assert_ne!(key(json!({ "messages": [], "tools": tools })), key(json!({ "messages": [] })));
    }
}
