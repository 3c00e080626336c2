//! Files that aren't models, or not ones this engine runs: each is refused with what was found and
//! what was expected, and nothing worse happens.
#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations)]

#[path = "common/tiny.rs"]
mod tiny;

use std::{fs, sync::Arc};

use baton_device::{Arena, Isa, Kernels};
use baton_engine::{LlamaEngine, LoadError, Model};
use baton_scheduler::{Engine, EngineError, SampleStep, SequenceStep, Unobserved};
use baton_types::{BlockId, ChoiceIndex, KvDtype, RequestId, SamplingSpec, SequenceKey, TokenId};
use candle_core::{
    DType, Device, Tensor,
    quantized::{GgmlDType, gguf_file::Value},
};
use proptest::prelude::*;
use tiny::Tiny;

/// What loading `tiny` says.
fn refusal(tiny: &Tiny) -> LoadError {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    tiny.write(&path);
    Model::load(&path).expect_err("it isn't loadable")
}

fn load_bytes(bytes: &[u8]) -> Result<Model, LoadError> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    fs::write(&path, bytes).unwrap();
    Model::load(&path)
}

fn tiny() -> Tiny {
    Tiny::new(GgmlDType::F32)
}

fn bytes(tiny: &Tiny) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.gguf");
    tiny.write(&path);
    fs::read(&path).unwrap()
}

fn zeros(shape: &[usize]) -> Option<Tensor> {
    Some(Tensor::zeros(shape, DType::F32, &Device::Cpu).unwrap())
}

#[test]
fn what_the_file_says_is_refused_with_both_values() {
    let text = |text: &str| Some(Value::String(text.to_owned()));
    let number = |number| Some(Value::U32(number));
    let key = |key: &str, value| tiny().set(key, value);
    let table: Vec<(Tiny, &[&str])> = vec![
        (
            key("general.architecture", text("gemma")),
            &["\"gemma\"", "\"llama\"", "\"qwen2\"", "\"qwen3\"", "\"gemma3\""],
        ),
        (key("general.architecture", None), &["general.architecture", "missing"]),
        (key("llama.block_count", None), &["llama.block_count", "missing"]),
        (key("llama.block_count", number(0)), &["llama.block_count", "0"]),
        (key("llama.block_count", text("two")), &["llama.block_count", "two"]),
        (key("llama.block_count", number(3)), &["blk.2.attn_norm.weight", "missing"]),
        (key("llama.embedding_length", number(128)), &["[64]", "[128]"]),
        (key("llama.attention.head_count", number(0)), &["head_count", "0"]),
        (key("llama.attention.head_count_kv", number(3)), &["4 over 3"]),
        (key("llama.attention.key_length", number(24)), &["head_dim", "24", "16"]),
        (key("llama.rope.dimension_count", number(8)), &["dimension_count", "8"]),
        (key("llama.rope.scaling.type", text("longrope")), &["scaling", "longrope", "yarn"]),
        (key("llama.rope.scaling.type", text("yarn")), &["rope.scaling.factor", "missing"]),
        (key("llama.context_length", None), &["llama.context_length", "missing"]),
        (key("tokenizer.ggml.model", text("bert")), &["tokenizer.ggml.model", "bert", "gpt2"]),
        (key("tokenizer.ggml.model", text("llama")), &["tokenizer.ggml.scores", "missing"]),
        (key("tokenizer.ggml.tokens", None), &["tokenizer.ggml.tokens", "missing"]),
        (tiny().tensor("output_norm.weight", None), &["output_norm.weight", "missing"]),
        (
            tiny().tensor("blk.1.attn_k.weight", zeros(&[64, 64])),
            &["blk.1.attn_k.weight", "[64, 64]", "[32, 64]"],
        ),
        (tiny().tensor("rope_freqs.weight", zeros(&[7])), &["rope_freqs.weight", "[7]", "[8]"]),
        (tiny().tensor("blk.0.attn_q.bias", zeros(&[64])), &["blk.0.attn_q.bias", "llama"]),
        (Tiny::new(GgmlDType::Q8_1), &["Q8_1", "Q4_1", "Q6_K"]),
    ];
    for (spoiled, parts) in table {
        let error = refusal(&spoiled).to_string();
        for part in parts {
            assert!(error.contains(part), "{part} isn't in: {error}");
        }
    }
}

#[test]
fn a_file_that_is_none_is_refused() {
    let whole = bytes(&tiny());
    assert!(load_bytes(&whole).is_ok());
    assert!(matches!(Model::load("/no/such/file".as_ref()), Err(LoadError::Open { .. })));
    let error = Model::load("Qwen/Qwen2.5-0.5B-Instruct".as_ref()).unwrap_err().to_string();
    assert!(error.contains("hf download Qwen/Qwen2.5-0.5B-Instruct"), "{error}");
    for foreign in [&b""[..], b"GG", b"PK\x03\x04 a zip", b"GGUF\x63\0\0\0 of another version"] {
        let error = load_bytes(foreign).unwrap_err();
        assert!(matches!(error, LoadError::Gguf { .. }), "{error}");
        assert!(error.to_string().contains("is not a whole GGUF file"), "{error}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let whole = bytes(&tiny());
    for length in (0..whole.len()).step_by(97) {
        let error = load_bytes(&whole[..length]).unwrap_err();
        assert!(
            matches!(error, LoadError::Gguf { .. } | LoadError::Truncated { .. }),
            "{length} of {} bytes: {error}",
            whole.len()
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(500) })]

    /// Lying lengths and shapes decide no allocation, and nothing panics.
    #[test]
    fn any_damage_is_an_error_or_another_model(
        damage in prop::collection::vec((0..3_000_usize, any::<u8>()), 1..6),
    ) {
        static WHOLE: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
        let mut spoiled = WHOLE.get_or_init(|| bytes(&tiny())).clone();
        for (at, byte) in damage {
            spoiled[at] = byte;
        }
        let _ = load_bytes(&spoiled);
    }
}

#[test]
fn broken_weights_end_a_step_with_its_sequence() {
    let nan = Tensor::full(f32::NAN, &[64], &Device::Cpu).unwrap();
    let model = load_bytes(&bytes(&tiny().tensor("output_norm.weight", Some(nan)))).unwrap();
    let layout = LlamaEngine::layout(&model, 16, KvDtype::F32);
    let arena = Arc::new(Arena::new(layout, 4).unwrap());
    let kernels = Kernels::new(Isa::best()).unwrap();
    let mut engine = LlamaEngine::new(Arc::new(model), arena, kernels, 1, None);
    let key = SequenceKey { request: RequestId(3), choice: ChoiceIndex(0) };
    let sample = Some(SampleStep::new(const { &SamplingSpec::GREEDY }, 0));
    let step = SequenceStep { key, tokens: &[TokenId(5)], start: 0, blocks: &[BlockId(0)], sample };
    let result = engine.step(&[step], &mut Unobserved, &mut Vec::new());
    assert_eq!(result, Err(EngineError::NotFinite { key }));
}
