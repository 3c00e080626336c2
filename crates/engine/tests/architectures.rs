//! Every architecture, in both kinds of file, against a plain f32 forward pass.
#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations)]

mod common;
#[path = "common/folder.rs"]
mod folder;
#[path = "reference/plain.rs"]
mod plain;
#[path = "common/tiny.rs"]
mod tiny;

use std::{path::Path, sync::Arc};

use baton_device::Isa;
use baton_engine::Model;
use baton_types::{KvDtype, SamplingSpec, TokenId};
use candle_core::{
    DType, Device, Tensor,
    quantized::{GgmlDType, gguf_file::Value},
};
use common::{Setup, alone, each_logits, engine, worst_error};
use folder::Folder;
use tiny::{FAMILIES, Family, Tiny};

fn tokens() -> Vec<TokenId> {
    (0..40).map(|i| TokenId((i * 37 + 11) % tiny::VOCAB as u32)).collect()
}

fn logits(path: &Path, dtype: KvDtype) -> Vec<Vec<f32>> {
    let model = Arc::new(Model::load(path).unwrap());
    each_logits(&mut engine(&model, Setup { dtype, threads: 2, ..Setup::default() }), &tokens(), 0)
}

/// The largest relative error of any row.
fn off(tiny: &Tiny, kv: KvDtype) -> f64 {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("tiny.gguf");
    tiny.write(&path);
    worst_error(&logits(&path, kv), &plain::forward(&path, &tokens()))
}

/// Where nothing is rounded to fewer bits, only the order of sums differs.
#[test]
fn logits_of_every_architecture_are_those_of_a_plain_forward_pass() {
    for family in FAMILIES {
        for (dtype, kv, bound) in [
            (GgmlDType::F32, KvDtype::F32, 1e-5),
            (GgmlDType::BF16, KvDtype::F32, 1e-5),
            (GgmlDType::F16, KvDtype::F16, 1e-2),
            (GgmlDType::Q8_0, KvDtype::F16, 5e-2),
            (GgmlDType::Q4_0, KvDtype::F16, 5e-2),
        ] {
            let error = off(&Tiny::of(family, dtype), kv);
            assert!(error < bound, "{family:?} {dtype:?}: {error:e}, at most {bound:e}");
        }
    }
}

/// Every format once more, in rows long enough for the K formats.
#[test]
fn logits_of_every_format_are_those_of_a_plain_forward_pass() {
    for dtype in [
        GgmlDType::Q4_0,
        GgmlDType::Q4_1,
        GgmlDType::Q5_0,
        GgmlDType::Q5_1,
        GgmlDType::Q8_0,
        GgmlDType::Q4K,
        GgmlDType::Q5K,
        GgmlDType::Q6K,
    ] {
        for family in [Family::Llama, Family::Qwen2] {
            let error = off(&Tiny::wide(family, dtype), KvDtype::F16);
            assert!(error < 5e-2, "{family:?} {dtype:?}: {error:e}");
        }
    }
}

#[test]
fn stretched_positions_are_those_of_a_plain_forward_pass() {
    let text = |text: &str| Some(Value::String(text.to_owned()));
    let divisors: Vec<f32> = (0..8).map(|i| 1.0 + i as f32).collect();
    let divisors = Tensor::from_vec(divisors, 8, &Device::Cpu).unwrap();
    let llama = || Tiny::new(GgmlDType::F32);
    let factor = Some(Value::F32(4.0));
    let context = "llama.rope.scaling.original_context_length";
    for stretched in [
        llama().tensor("rope_freqs.weight", Some(divisors)),
        llama()
            .set("llama.rope.scaling.type", text("linear"))
            .set("llama.rope.scaling.factor", factor.clone()),
        llama()
            .set("llama.rope.scaling.type", text("yarn"))
            .set("llama.rope.scaling.factor", factor.clone())
            .set(context, Some(Value::U32(16))),
        Tiny::of(Family::Gemma3, GgmlDType::F32)
            .set("gemma3.rope.scaling.type", text("linear"))
            .set("gemma3.rope.scaling.factor", factor),
    ] {
        let error = off(&stretched, KvDtype::F32);
        assert!(error < 1e-5, "{error:e}");
    }
}

/// Same weights, same logits, bit for bit, in whatever kind of file.
#[test]
fn folders_and_gguf_files_of_the_same_weights_are_the_same_model() {
    for family in FAMILIES {
        for (stored, dtype) in [
            (GgmlDType::F32, DType::F32),
            (GgmlDType::F16, DType::F16),
            (GgmlDType::BF16, DType::BF16),
        ] {
            let place = tempfile::tempdir().unwrap();
            let (file, folder) = (place.path().join("tiny.gguf"), place.path().join("folder"));
            let tiny = rounded(Tiny::of(family, stored), dtype);
            tiny.write(&file);
            Folder::new(&tiny, dtype).split().write(&folder);
            let (file, folder) = (logits(&file, KvDtype::F16), logits(&folder, KvDtype::F16));
            assert_eq!(file, folder, "{family:?} {stored:?}");
        }
    }
}

/// GGUF files keep vectors in f32, folders in `dtype`: make them the same numbers. Gemma's are
/// small enough then to keep their bits below a 1.
fn rounded(mut tiny: Tiny, dtype: DType) -> Tiny {
    for (name, tensor) in &mut tiny.tensors {
        if tensor.rank() == 1 {
            let offset =
                if tiny.family == Family::Gemma3 && name.contains("norm") { 1.0 } else { 0.0 };
            let stored = (tensor.clone() - offset).unwrap().to_dtype(dtype).unwrap();
            *tensor = (stored.to_dtype(DType::F32).unwrap() + offset).unwrap();
        }
    }
    tiny
}

/// same-tokens, for every architecture: instruction sets, chunks, threads and blocks change no bit.
#[test]
fn logits_are_the_same_however_they_are_run() {
    for family in FAMILIES {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("tiny.gguf");
        Tiny::of(family, GgmlDType::Q8_0).write(&path);
        let model = Arc::new(Model::load(&path).unwrap());
        let tokens = tokens();
        let one_by_one = each_logits(&mut engine(&model, Setup::default()), &tokens, 0);
        for isa in Isa::available() {
            for (threads, block_tokens, chunk) in [(1, 16, 40), (3, 48, 23), (2, 32, 9)] {
                let setup = Setup { isa, threads, block_tokens, ..Setup::default() };
                let given = each_logits(&mut engine(&model, setup), &tokens, chunk);
                let rest = &one_by_one[chunk - 1..];
                assert_eq!(given, rest, "{family:?} {isa} {threads} {block_tokens} {chunk}");
            }
        }
    }
}

/// Golden digests of numerics `baton-cpu-1`, f32 weights, f16 cache: for each family, tokens and
/// logits digests of four greedy outputs after a prompt of 40.
#[test]
fn golden_digests_hold() {
    let golden: Vec<Vec<(u32, u64)>> =
        serde_json::from_str(include_str!("golden_tiny.json")).unwrap();
    let given: Vec<_> = FAMILIES
        .into_iter()
        .map(|family| {
            let place = tempfile::tempdir().unwrap();
            let path = place.path().join("tiny.gguf");
            Tiny::of(family, GgmlDType::F32).write(&path);
            let model = Arc::new(Model::load(&path).unwrap());
            let mut engine = engine(&model, Setup::default());
            alone(&mut engine, &tokens(), 4, 512, SamplingSpec::GREEDY)
        })
        .collect();
    assert_eq!(given, golden, "{}", serde_json::to_string(&given).unwrap());
}
