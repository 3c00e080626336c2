//! `same-tokens` across processes: a disaggregated cluster gives the tokens and the logits of the
//! engine alone, bit for bit, whatever the chunks, the company and the cache.

use baton_tests::{Ask, Cluster, Engine, Options, Reference, generate_all, model};
use baton_types::{Grammar, SamplingSpec, TokenId};

/// A prompt of any length, the same every time, from ids that every model here has and that end
/// no sequence.
fn prompt(length: usize, variety: u32) -> Vec<TokenId> {
    (0..length as u32).map(|i| TokenId(33 + (i * 7 + i / 11 + variety * 13) % 90)).collect()
}

/// What no short output completes.
const LIST: &str = r#"{
    "type": "array",
    "items": {
        "type": "object",
        "properties": { "name": { "type": "string" }, "n": { "type": "integer" } },
        "required": ["name", "n"]
    },
    "minItems": 3
}"#;

/// Greedy, seeded, cut, penalised and held to a grammar by turns; some tell log-probabilities.
fn ask(length: usize, variety: u32, max_tokens: u32) -> Ask {
    let seeded = SamplingSpec::seeded(0.8, 1000 + u64::from(variety));
    let sampling = match variety % 5 {
        0 => SamplingSpec::GREEDY,
        1 => seeded,
        2 => SamplingSpec { top_k: 40, top_p: 0.9, min_p: 0.02, logprobs: Some(3), ..seeded },
        3 => SamplingSpec { grammar: Some(Grammar::JsonSchema(LIST.into())), ..seeded },
        _ => SamplingSpec {
            typical_p: 0.9,
            repetition_penalty: 1.2,
            frequency_penalty: 0.3,
            presence_penalty: 0.2,
            logit_bias: vec![(TokenId(40), 2.5), (TokenId(50), -100.0)],
            min_tokens: 3,
            logprobs: Some(0),
            ..seeded
        },
    };
    Ask { prompt: prompt(length, variety), max_tokens, sampling }
}

fn asks(lengths: &[usize], max_tokens: u32) -> Vec<Ask> {
    lengths.iter().zip(0..).map(|(&length, i)| ask(length, i, max_tokens)).collect()
}

/// Runs `asks` on `cluster`, all at the same time, and compares each with the engine alone.
async fn check(cluster: &Cluster, reference: &mut Reference, model: &str, asks: &[Ask]) {
    let generated = generate_all(cluster.url(), model, asks).await.unwrap();
    for (ask, ours) in asks.iter().zip(&generated) {
        let alone = reference.generate(ask).unwrap();
        assert_eq!(ours.bits(), alone.bits(), "{} tokens, {:?}", ask.prompt.len(), ask.sampling);
        let told = if ask.sampling.logprobs.is_some() { ours.tokens.len() } else { 0 };
        assert_eq!(ours.logprobs.len(), told);
    }
}

fn llama_name() -> String {
    model().file_stem().unwrap().to_string_lossy().into_owned()
}

#[tokio::test]
async fn the_simulated_engine_in_chunks_of_any_size_alone_and_sixteen_at_a_time() {
    let mut reference = Reference::sim().unwrap();
    for chunk in [1, 7, 64, 512] {
        let options = Options::new(Engine::Sim).set(format!("scheduler.chunk_tokens={chunk}"));
        let cluster = Cluster::start(&options).unwrap();
        for length in [1, 2, 15, 16, 17, 31, 32, 33, 511, 512] {
            check(&cluster, &mut reference, "sim", &[ask(length, length as u32, 24)]).await;
        }
        let lengths: Vec<usize> = (0..16).map(|i| 1 + i * 33).collect();
        check(&cluster, &mut reference, "sim", &asks(&lengths, 40)).await;
        // Now everything is cached.
        check(&cluster, &mut reference, "sim", &asks(&lengths, 40)).await;
        check(&cluster, &mut reference, "sim", &asks(&[4000, 3999, 4001], 16)).await;
        cluster.wait_whole(std::time::Duration::from_secs(5)).unwrap();
    }
}

#[tokio::test]
async fn the_real_engine_in_small_chunks_sixteen_at_a_time_with_cache_hits() {
    let mut reference = Reference::llama(&model()).unwrap();
    let options = Options::new(Engine::Llama).set("scheduler.chunk_tokens=7");
    let cluster = Cluster::start(&options).unwrap();
    let lengths: Vec<usize> = (0..16).map(|i| 1 + i * 5).collect();
    for _miss_then_hit in 0..2 {
        check(&cluster, &mut reference, &llama_name(), &asks(&lengths, 6)).await;
    }
    let alone = ask(17, 3, 8);
    check(&cluster, &mut reference, &llama_name(), &[alone]).await;
    cluster.wait_whole(std::time::Duration::from_secs(5)).unwrap();
}

#[tokio::test]
async fn the_real_engine_token_by_token_and_in_large_chunks() {
    let mut reference = Reference::llama(&model()).unwrap();
    for (chunk, lengths) in [(1, vec![1, 16, 33]), (64, vec![100, 257]), (512, vec![512])] {
        let options = Options::new(Engine::Llama).set(format!("scheduler.chunk_tokens={chunk}"));
        let cluster = Cluster::start(&options).unwrap();
        check(&cluster, &mut reference, &llama_name(), &asks(&lengths, 6)).await;
    }
}

#[tokio::test]
async fn the_real_engine_with_a_prompt_of_four_thousand_tokens() {
    let mut reference = Reference::llama(&model()).unwrap();
    let cluster = Cluster::start(&Options::new(Engine::Llama)).unwrap();
    check(&cluster, &mut reference, &llama_name(), &asks(&[4000], 4)).await;
}
