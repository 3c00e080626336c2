//! What runs before what: prefixes together, and everybody before a batch.

use baton_tests::{Cluster, Engine, Options, events};
use serde_json::{Value, json};

use super::client::{batch, check_whole, completed, create, jsonl, line, wait, wait_for};

/// Prompt tokens that were in the cache, of all answers.
fn cached(answers: &[Value]) -> u64 {
    let usage = |answer: &Value| answer["response"]["body"]["usage"].clone();
    let cached = |usage: Value| usage["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap();
    answers.iter().map(usage).map(cached).sum()
}

/// As many families of prompts as the pools hold only a part of: in a round through all families,
/// each beginning is gone before it is asked for again.
const FAMILIES: usize = 12;
const MEMBERS: usize = 8;
const PREFIX: usize = 1600;

#[test]
fn prompts_with_a_common_beginning_find_it_in_the_cache_wherever_they_are_in_the_file() {
    // A token's keys and values are 64 bytes here: 8192 tokens, of 19200 in all beginnings.
    let options = Options { kv_size: "512KiB", ..Options::new(Engine::Sim) }.nodes(1, 1);
    let options = options.set("engine.max_context=4096");
    let run = |sent: &[Value]| {
        let cluster = Cluster::start(&options).unwrap();
        let id = create(&cluster, &jsonl(sent));
        let batch = wait_for(&cluster, &id, "completed");
        cached(&check_whole(&cluster, &batch, sent))
    };
    let prompt = |family: usize, member: usize| {
        let start = format!("{family:04} is what this is about. ").repeat(PREFIX / 28 + 1);
        line(&format!("{family}-{member}"), &format!("{}{member}", &start[..PREFIX]), 2)
    };
    let sorted: Vec<_> =
        (0..FAMILIES * MEMBERS).map(|at| prompt(at / MEMBERS, at % MEMBERS)).collect();
    let mixed: Vec<_> =
        (0..FAMILIES * MEMBERS).map(|at| prompt(at % FAMILIES, at / FAMILIES)).collect();
    let (sorted, mixed) = (run(&sorted), run(&mixed));
    // All but the first of each family.
    let most = (FAMILIES * (MEMBERS - 1) * PREFIX) as u64;
    assert!(sorted * 10 >= most * 9, "{sorted} of {most} when the file is sorted");
    assert!(mixed * 10 >= sorted * 9, "{mixed} tokens when it isn't, {sorted} when it is");
}

#[test]
fn whoever_somebody_waits_for_starts_before_what_is_left_of_a_batch() {
    // A pool of 64 blocks: no more than so many requests of nine blocks are in it.
    const PLACED: u64 = 7;
    const LINES: usize = 200;
    let options = Options { kv_size: "64KiB", ..Options::new(Engine::Sim) }.nodes(1, 1);
    let options = options.set("engine.max_context=512").router_set("batches.max_running=50");
    let cluster = Cluster::start(&options).unwrap();
    let prompt = |number: usize| format!("{number} {}", "words ".repeat(16));
    let sent: Vec<_> = (0..LINES).map(|n| line(&format!("line-{n}"), &prompt(n), 30)).collect();
    let id = create(&cluster, &jsonl(&sent));
    for round in 1..4 {
        let before = completed(&wait(&cluster, &id, |batch| completed(batch) >= 10 * round));
        let body = json!({
            "model": "sim", "prompt": prompt(LINES), "max_tokens": 30, "stream": true,
        });
        let mut answer = events(&cluster.path("/v1/completions"), &body).unwrap();
        answer.next().unwrap().unwrap();
        // Those that were placed may have ended; those that waited stood behind.
        let at_first_token = completed(&batch(&cluster, &id));
        assert!(at_first_token <= before + PLACED, "{before} → {at_first_token}");
        assert_eq!(answer.last().unwrap().unwrap(), "[DONE]");
        let at_end = completed(&batch(&cluster, &id));
        assert!(at_end < 150, "the batch was over before somebody came");
    }
    check_whole(&cluster, &wait_for(&cluster, &id, "completed"), &sent);
}
