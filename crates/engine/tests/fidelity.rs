//! What rounding activations to int8 costs: the model as it is stored, against the same weights widened to f32, with
//! activations, keys and values in f32.
#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations)]
#![allow(clippy::print_stdout, reason = "it says what it found")]

mod common;

use std::{fs::File, io::BufReader, path::Path, sync::Arc};

use baton_engine::{Model, TransformerEngine};
use baton_scheduler::{Engine, ScoreStep, SequenceStep, StepObserver};
use baton_text::TextModel;
use baton_types::{BlockId, KvDtype, SequenceKey, TokenId, TokenLogprobs};
use candle_core::{
    Device,
    quantized::{
        GgmlDType, QTensor,
        gguf_file::{self, Content},
    },
};
use common::{Setup, engine, key, model, model_path};

/// Tokens of a text that are read together,
const WINDOW: usize = 512;
/// and so many of such texts.
const WINDOWS: usize = 8;

/// What every token but the first was given, and what was thought likelier.
#[derive(Default)]
struct Heard {
    logprobs: Vec<f64>,
    likeliest: Vec<TokenId>,
}

impl StepObserver for Heard {
    fn layer_done(&mut self, _: u32) {}

    fn scored(&mut self, _: SequenceKey, _: u32, told: TokenLogprobs) {
        self.logprobs.push(f64::from(told.logprob));
        self.likeliest.push(told.top[0].0);
    }
}

impl Heard {
    fn perplexity(&self) -> f64 {
        (-self.logprobs.iter().sum::<f64>() / self.logprobs.len() as f64).exp()
    }
}

fn hear(engine: &mut TransformerEngine, windows: &[&[TokenId]]) -> Heard {
    let blocks: Vec<_> = (0..(WINDOW / 16) as u32).map(BlockId).collect();
    let mut heard = Heard::default();
    for tokens in windows {
        let step = SequenceStep {
            key: key(1),
            tokens,
            start: 0,
            blocks: &blocks,
            sample: None,
            score: Some(ScoreStep { targets: &tokens[1..], top: 1 }),
        };
        engine.step(&[step], &mut heard, &mut Vec::new()).unwrap();
    }
    heard
}

/// A copy of the file with every tensor in f32.
fn widen(from: &Path, to: &Path) {
    let mut file = BufReader::new(File::open(from).unwrap());
    let content = Content::read(&mut file).unwrap();
    let tensors: Vec<(&String, QTensor)> = content
        .tensor_infos
        .keys()
        .map(|name| {
            let stored = content.tensor(&mut file, name, &Device::Cpu).unwrap();
            let wide = stored.dequantize(&Device::Cpu).unwrap();
            (name, QTensor::quantize(&wide, GgmlDType::F32).unwrap())
        })
        .collect();
    let metadata: Vec<_> =
        content.metadata.iter().map(|(key, value)| (key.as_str(), value)).collect();
    let tensors: Vec<_> = tensors.iter().map(|(name, tensor)| (name.as_str(), tensor)).collect();
    gguf_file::write(&mut File::create(to).unwrap(), &metadata, &tensors).unwrap();
}

#[test]
fn perplexity_is_that_of_f32() {
    let stored = model();
    let text = TextModel::new((*stored.text).clone()).unwrap();
    let english = [
        include_str!("reference/english.txt"),
        include_str!("../../../loadtest/src/prompt/text.txt"),
    ];
    let tokens: Vec<TokenId> =
        english.iter().flat_map(|english| text.encode(english).unwrap()).collect();
    let windows: Vec<_> = tokens.chunks_exact(WINDOW).take(WINDOWS).collect();
    assert_eq!(windows.len(), WINDOWS);
    let setup = Setup { threads: 2, ..Setup::default() };
    let ours = hear(&mut engine(&stored, setup), &windows);
    drop(stored);

    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let path = folder.join("widened.gguf");
    widen(&model_path(), &path);
    let wide = Arc::new(Model::load(&path).unwrap());
    std::fs::remove_file(&path).unwrap();
    let setup = Setup { dtype: KvDtype::F32, ..setup };
    let reference = hear(&mut engine(&wide, setup), &windows);

    let pairs = || ours.likeliest.iter().zip(&reference.likeliest);
    let agreed = pairs().filter(|(ours, theirs)| ours == theirs).count() as f64;
    let agreement = agreed / pairs().count() as f64;
    let ratio = ours.perplexity() / reference.perplexity();
    println!(
        "perplexity {:.4}, of f32 {:.4}: {:+.3} %; the likeliest token is the same at {:.2} % of {} places",
        ours.perplexity(),
        reference.perplexity(),
        100.0 * (ratio - 1.0),
        100.0 * agreement,
        pairs().count()
    );
    assert_eq!(pairs().count(), WINDOWS * (WINDOW - 1));
    assert!((ratio - 1.0).abs() < 0.005, "{ratio}");
    assert!(agreement > 0.95, "{agreement}");
}
