//! Files that aren't models, or not ones this engine runs: each is refused with what was found and
//! what was expected, and nothing worse happens.
#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations)]

#[path = "common/folder.rs"]
mod folder;
#[path = "common/tiny.rs"]
mod tiny;

use std::{fs, path::Path, sync::Arc};

use baton_device::{Arena, Isa, Kernels, ThreadPool};
use baton_engine::{LoadError, Model, TransformerEngine};
use baton_scheduler::{Engine, EngineError, SampleStep, SequenceStep, Unobserved};
use baton_types::{BlockId, ChoiceIndex, KvDtype, RequestId, SamplingSpec, SequenceKey, TokenId};
use candle_core::{
    DType, Device, Tensor,
    quantized::{GgmlDType, gguf_file::Value},
};
use folder::Folder;
use proptest::prelude::*;
use serde_json::{Value as Json, json};
use tiny::{Family, Tiny};

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

fn plain_folder() -> Folder {
    Folder::new(&tiny(), DType::F32)
}

/// What loading `folder` says after `spoil` has been there.
fn folder_refusal(folder: &Folder, spoil: impl FnOnce(&Path)) -> LoadError {
    let place = tempfile::tempdir().unwrap();
    folder.write(place.path());
    spoil(place.path());
    Model::load(place.path()).expect_err("it isn't loadable")
}

#[test]
fn what_a_folder_says_is_refused_with_both_values() {
    let key = |key: &str, value: Json| plain_folder().set(key, value);
    let tensor = |name: &str, tensor: Option<Tensor>| {
        let mut folder = plain_folder();
        folder.shards[0].1.remove(name);
        folder.shards[0].1.extend(tensor.map(|tensor| (name.to_owned(), tensor)));
        folder
    };
    let integers = Tensor::zeros(&[64], DType::I64, &Device::Cpu).unwrap();
    let gemma = || Folder::new(&Tiny::of(Family::Gemma3, GgmlDType::F32), DType::F32);
    let linear = json!({ "type": "linear", "rope_type": "linear" });
    let table: Vec<(Folder, &[&str])> = vec![
        (key("model_type", json!("bert")), &["\"bert\"", "\"mistral\"", "\"gemma3_text\""]),
        (key("model_type", Json::Null), &["model_type", "missing"]),
        (key("hidden_size", Json::Null), &["hidden_size", "missing"]),
        (key("hidden_size", json!("large")), &["config.json", "large"]),
        (key("num_hidden_layers", json!(0)), &["num_hidden_layers", "0"]),
        (key("num_key_value_heads", json!(3)), &["4 over 3"]),
        (key("hidden_act", json!("relu")), &["hidden_act", "relu"]),
        (key("attention_bias", json!(true)), &["attention_bias", "true"]),
        (key("quantization_config", json!({ "bits": 4 })), &["quantization_config", "GGUF"]),
        (key("rope_scaling", json!({ "rope_type": "longrope" })), &["longrope", "yarn"]),
        (key("rope_scaling", linear), &["rope_scaling.factor", "missing"]),
        (gemma().set("sliding_window", Json::Null), &["sliding_window", "missing"]),
        (tensor("model.norm.weight", None), &["model.norm.weight", "missing"]),
        (tensor("model.norm.weight", zeros(&[32])), &["model.norm.weight", "[32]", "[64]"]),
        (tensor("model.norm.weight", Some(integers)), &["model.norm.weight", "I64", "BF16"]),
        (tensor("model.extra.weight", zeros(&[4])), &["model.extra.weight", "llama"]),
    ];
    for (folder, parts) in table {
        let error = folder_refusal(&folder, |_| ()).to_string();
        for part in parts {
            assert!(error.contains(part), "{part} isn't in: {error}");
        }
    }
}

#[test]
fn a_folder_that_is_not_whole_is_refused() {
    let weights = "model.safetensors";
    let cut = |to: usize| {
        move |place: &Path| {
            let bytes = fs::read(place.join(weights)).unwrap();
            fs::write(place.join(weights), &bytes[..to.min(bytes.len() - 1)]).unwrap();
        }
    };
    for to in [0, 7, 8, 100, 3_000, 100_000, usize::MAX] {
        let error = folder_refusal(&plain_folder(), cut(to));
        assert!(matches!(error, LoadError::Safetensors { .. }), "{to} bytes: {error}");
    }
    for name in ["config.json", "tokenizer.json", weights] {
        let error = folder_refusal(&plain_folder(), |place| {
            fs::remove_file(place.join(name)).unwrap();
        });
        assert!(matches!(error, LoadError::Open { .. }), "{error}");
        assert!(error.to_string().contains(name), "{error}");
    }
    let error = folder_refusal(&plain_folder(), |place| {
        fs::write(place.join("tokenizer.json"), "{}").unwrap();
    });
    assert!(matches!(error, LoadError::Text(_)), "{error}");
}

#[test]
fn an_index_may_not_point_elsewhere() {
    for outside in ["../elsewhere.safetensors", "/etc/passwd", "deeper/file.safetensors", ""] {
        let error = folder_refusal(&plain_folder().split(), |place| {
            let map = json!({ "weight_map": { "model.norm.weight": outside } });
            fs::write(place.join("model.safetensors.index.json"), map.to_string()).unwrap();
        });
        assert!(matches!(error, LoadError::OutsideFolder { .. }), "{error}");
        assert!(error.to_string().contains("model.norm.weight"), "{error}");
    }
    let error = folder_refusal(&plain_folder().split(), |place| {
        fs::remove_file(place.join("second.safetensors")).unwrap();
    });
    assert!(error.to_string().contains("second.safetensors"), "{error}");
}

/// Same weights, same words: one hash. Anything else in a file that is read: another.
#[test]
fn the_numerics_id_is_that_of_everything_read() {
    let numerics = |folder: &Folder| {
        let place = tempfile::tempdir().unwrap();
        folder.write(place.path());
        let model = Arc::new(Model::load(place.path()).unwrap());
        let arena = Arena::new(TransformerEngine::layout(&model, 16, KvDtype::F32), 4).unwrap();
        let kernels = Kernels::new(Isa::best()).unwrap();
        TransformerEngine::new(model, Arc::new(arena), kernels, ThreadPool::new(1), None)
            .info()
            .numerics
    };
    let id = numerics(&plain_folder());
    assert_eq!(numerics(&plain_folder()), id);
    assert_ne!(numerics(&plain_folder().split()), id);
    assert_ne!(numerics(&plain_folder().set("eos_token_id", json!(5))), id);
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

    /// The same of a folder's header and sizes.
    #[test]
    fn any_damage_to_a_folder_is_an_error_or_another_model(
        damage in prop::collection::vec((0..3_000_usize, any::<u8>()), 1..6),
        size in prop::option::of((
            prop::sample::select(SIZES.as_slice()),
            prop_oneof![0..300_u64, any::<u64>()],
        )),
    ) {
        let place = tempfile::tempdir().unwrap();
        let folder = match size {
            Some((key, size)) => plain_folder().set(key, json!(size)),
            None => plain_folder(),
        };
        folder.write(place.path());
        let weights = place.path().join("model.safetensors");
        let mut spoiled = fs::read(&weights).unwrap();
        if size.is_none() {
            for (at, byte) in damage {
                spoiled[at] = byte;
            }
        }
        fs::write(&weights, spoiled).unwrap();
        let _ = Model::load(place.path());
    }
}

const SIZES: [&str; 8] = [
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "intermediate_size",
    "vocab_size",
    "sliding_window_pattern",
];

#[test]
fn broken_weights_end_a_step_with_its_sequence() {
    let nan = Tensor::full(f32::NAN, &[64], &Device::Cpu).unwrap();
    let model = load_bytes(&bytes(&tiny().tensor("output_norm.weight", Some(nan)))).unwrap();
    let layout = TransformerEngine::layout(&model, 16, KvDtype::F32);
    let arena = Arc::new(Arena::new(layout, 4).unwrap());
    let kernels = Kernels::new(Isa::best()).unwrap();
    let mut engine =
        TransformerEngine::new(Arc::new(model), arena, kernels, ThreadPool::new(1), None);
    let key = SequenceKey { request: RequestId(3), choice: ChoiceIndex(0) };
    let sample = Some(SampleStep::new(const { &SamplingSpec::GREEDY }, 0));
    let step = SequenceStep {
        key,
        tokens: &[TokenId(5)],
        start: 0,
        blocks: &[BlockId(0)],
        sample,
        score: None,
    };
    let result = engine.step(&[step], &mut Unobserved, &mut Vec::new());
    assert_eq!(result, Err(EngineError::NotFinite { key }));
}
