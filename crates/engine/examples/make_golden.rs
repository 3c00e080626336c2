//! Writes `tests/golden.json` anew: only together with a new numerics name.
#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations)]

#[path = "../tests/common/mod.rs"]
mod common;

use baton_types::SamplingSpec;
use common::{Setup, alone, engine, golden_runs, model, prompt};

fn main() {
    let model = model();
    let mut engine = engine(&model, Setup::default());
    let golden: Vec<_> = golden_runs()
        .into_iter()
        .map(|(seed, len)| alone(&mut engine, &prompt(seed, len), 4, 512, SamplingSpec::GREEDY))
        .collect();
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden.json");
    std::fs::write(path, serde_json::to_string(&golden).unwrap()).unwrap();
}
