//! Stock candle on the same file, for comparison: `candle-baseline MODEL` prints tokens a second as
//! JSON. Threads by `RAYON_NUM_THREADS`.

use std::{fs::File, time::Instant};

use anyhow::Context;
use candle_core::{Device, Tensor, quantized::gguf_file::Content};
use candle_transformers::models::quantized_llama::ModelWeights;

const PREFILL: u32 = 512;
const DECODE: u32 = 32;

#[allow(clippy::print_stdout)]
fn main() -> anyhow::Result<()> {
    let path = std::env::args().nth(1).context("usage: candle-baseline MODEL")?;
    let mut file = File::open(path)?;
    let content = Content::read(&mut file)?;
    let mut model = ModelWeights::from_gguf(content, &mut file, &Device::Cpu)?;
    let prompt: Vec<u32> = (0..PREFILL).map(|i| i * 37 % 49_000).collect();
    forward(&mut model, &prompt[..64], 0)?;

    let begin = Instant::now();
    forward(&mut model, &prompt, 0)?;
    let prefill = f64::from(PREFILL) / begin.elapsed().as_secs_f64();

    forward(&mut model, &prompt[..128], 0)?;
    let begin = Instant::now();
    for position in 128..128 + DECODE {
        forward(&mut model, &[1000 + position], position as usize)?;
    }
    let decode = f64::from(DECODE) / begin.elapsed().as_secs_f64();
    let rows = [("prefill_512", prefill), ("decode_1", decode)]
        .map(|(name, value)| format!(r#"{{"name":"{name}","value":{value:.1},"unit":"tok/s"}}"#));
    println!("[{}]", rows.join(","));
    Ok(())
}

fn forward(model: &mut ModelWeights, tokens: &[u32], position: usize) -> anyhow::Result<()> {
    let input = Tensor::new(tokens, &Device::Cpu)?.unsqueeze(0)?;
    // Reading one value makes sure that everything was computed.
    model.forward(&input, position)?.flatten_all()?.get(0)?.to_scalar::<f32>()?;
    Ok(())
}
