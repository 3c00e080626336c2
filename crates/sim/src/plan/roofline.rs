//! The profiles in `deploy/profiles`, computed from published figures.
//!
//! # What do the analytic ones assume?
//!
//! A step is bound by arithmetic or by memory, at the share of the datasheet's peak that
//! [`Utilisation`] states, and costs [`OVERHEAD_US`] besides. The parts are summed, for that is the form
//! a [`LatencyProfile`] has, and the form DistServe's measured fit has: its OPT-13B on an A100, the one
//! measured profile here, is met within three tenths (see this module's test).
//!
//! # And of tensor parallelism?
//!
//! A worker of n devices takes 1/(n·[`efficiency`]) of the time for everything but the overhead.

use baton_types::{KvDtype, LatencyProfile, Mixing};

use super::profile::{BatchLimits, Device, DeviceProfile, ModelShape, Parallelism};

/// Of every step: launches, sampling, the host.
pub const OVERHEAD_US: f64 = 2000.0;

/// The shares of a datasheet's peaks that are reached.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Utilisation {
    /// Of dense 16-bit FLOP/s, by matrix products,
    pub compute: f64,
    /// and by attention.
    pub attention: f64,
    /// Of memory bandwidth.
    pub bandwidth: f64,
}

/// One kind of device, by its datasheet.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Accelerator {
    pub name: &'static str,
    /// In file names.
    pub slug: &'static str,
    /// Dense, 16 bits.
    pub flops: f64,
    pub bytes_per_second: f64,
    pub memory_bytes: u64,
    pub link_bytes_per_second: f64,
    pub price_per_hour: f64,
    pub utilisation: Utilisation,
    pub source: &'static str,
}

/// A dense transformer with 16-bit weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transformer {
    pub name: &'static str,
    pub slug: &'static str,
    pub parameters: f64,
    pub layers: u32,
    pub heads: u32,
    pub kv_heads: u32,
    pub head_dim: u32,
    pub max_context: u32,
    pub tensor: &'static [u32],
    pub source: &'static str,
}

const A100: Accelerator = Accelerator {
    name: "A100-80GB-SXM",
    slug: "a100-80gb",
    flops: 312e12,
    bytes_per_second: 2.039e12,
    memory_bytes: 80_000_000_000,
    link_bytes_per_second: 25e9,
    price_per_hour: 1.8,
    utilisation: Utilisation { compute: 0.7, attention: 0.2, bandwidth: 0.7 },
    source: "NVIDIA A100 80GB SXM datasheet: 312 TFLOP/s dense BF16, 2039 GB/s, 80 GB; \
             200 Gb/s of network a device, as in a DGX A100",
};

const H100: Accelerator = Accelerator {
    name: "H100-80GB-SXM",
    slug: "h100-80gb",
    flops: 989e12,
    bytes_per_second: 3.35e12,
    memory_bytes: 80_000_000_000,
    link_bytes_per_second: 50e9,
    price_per_hour: 3.0,
    utilisation: Utilisation { compute: 0.55, attention: 0.2, bandwidth: 0.7 },
    source: "NVIDIA H100 SXM datasheet: 989 TFLOP/s dense BF16, 3.35 TB/s, 80 GB; 400 Gb/s of \
             network a device, as in a DGX H100",
};

const H200: Accelerator = Accelerator {
    name: "H200-141GB-SXM",
    slug: "h200-141gb",
    bytes_per_second: 4.8e12,
    memory_bytes: 141_000_000_000,
    price_per_hour: 3.8,
    source: "NVIDIA H200 SXM datasheet: 989 TFLOP/s dense BF16, 4.8 TB/s, 141 GB; 400 Gb/s of \
             network a device, as in a DGX H200",
    ..H100
};

const LLAMA_3_8B: Transformer = Transformer {
    name: "Llama-3-8B",
    slug: "llama-3-8b",
    parameters: 8.03e9,
    layers: 32,
    heads: 32,
    kv_heads: 8,
    head_dim: 128,
    max_context: 8192,
    tensor: &[1, 2],
    source: "its published configuration: 8.03e9 parameters, 32 layers, 32 heads of 128, 8 KV heads",
};

const LLAMA_3_70B: Transformer = Transformer {
    name: "Llama-3-70B",
    slug: "llama-3-70b",
    parameters: 70.6e9,
    layers: 80,
    heads: 64,
    kv_heads: 8,
    head_dim: 128,
    max_context: 8192,
    tensor: &[2, 4, 8],
    source: "its published configuration: 70.6e9 parameters, 80 layers, 64 heads of 128, 8 KV heads",
};

const OPT_13B: Transformer = Transformer {
    name: "OPT-13B",
    slug: "opt-13b",
    parameters: 12.85e9,
    layers: 40,
    heads: 40,
    kv_heads: 40,
    head_dim: 128,
    max_context: 2048,
    tensor: &[1],
    source: "its published configuration: 12.85e9 parameters, 40 layers, 40 heads of 128",
};

/// Bytes of an element, of weights and of keys and values.
const ELEMENT: f64 = 2.0;

/// A profile and the comment over it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sourced {
    /// The file's name without `.toml`.
    pub file: String,
    pub comment: String,
    pub profile: DeviceProfile,
}

/// Every profile in `deploy/profiles`.
pub fn catalogue() -> Vec<Sourced> {
    let mut all = vec![opt_13b_a100()];
    for model in [LLAMA_3_8B, LLAMA_3_70B] {
        for device in [A100, H100, H200] {
            all.extend(analytic(&model, &device));
        }
    }
    all
}

/// Of the ideal speed-up of n devices, the share they reach together: all-reduces take the rest.
pub fn efficiency(tensor: u32) -> f64 {
    match tensor {
        0 | 1 => 1.0,
        2 => 0.9,
        3..=4 => 0.8,
        _ => 0.7,
    }
}

/// What steps cost, by arithmetic and bytes moved.
pub fn steps(model: &Transformer, device: &Accelerator, tensor: u32) -> LatencyProfile {
    let Utilisation { compute, attention, bandwidth } = device.utilisation;
    let devices = f64::from(tensor) * efficiency(tensor);
    let flops = |count: f64, share: f64| 1e6 * count / (device.flops * share * devices);
    let bytes = |count: f64| 1e6 * count / (device.bytes_per_second * bandwidth * devices);
    let weights = bytes(ELEMENT * model.parameters);
    let token = flops(2.0 * model.parameters, compute);
    // A query against a key, and its share of the value, in every layer.
    let width = f64::from(model.layers) * f64::from(model.heads) * f64::from(model.head_dim);
    let pair = flops(4.0 * width, attention);
    let cached = f64::from(model.layers) * f64::from(model.kv_heads) * f64::from(model.head_dim);
    let context = bytes(2.0 * ELEMENT * cached);
    let coefficients =
        [OVERHEAD_US + weights, token, pair, OVERHEAD_US + weights, token, context].map(rounded);
    LatencyProfile::from_coefficients(coefficients, Mixing::Sum)
}

/// To four digits: there is no more truth in them.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

fn analytic(model: &Transformer, device: &Accelerator) -> Option<Sourced> {
    let mut profile = profile(model, device);
    profile.parallelism =
        model.tensor.iter().map(|&n| Parallelism::new(n, steps(model, device, n))).collect();
    // What doesn't fit is no choice.
    let fitting = |parallelism: &Parallelism| profile.kv_blocks(parallelism.tensor).is_ok();
    let parallelism: Vec<_> = profile.parallelism.iter().copied().filter(fitting).collect();
    let of_ideal = |n: &Parallelism| format!("{} of {}", efficiency(n.tensor), n.tensor);
    let efficiencies: Vec<String> = parallelism.iter().map(of_ideal).collect();
    profile.parallelism = parallelism;
    let Utilisation { compute, attention, bandwidth } = device.utilisation;
    let comment = format!(
        "Analytic, not measured: computed by crates/sim/src/plan/roofline.rs.\n\
         Device: {}.\n\
         Model: {}; 16-bit weights and cache.\n\
         Assumed: {compute} of peak FLOP/s in matrix products, {attention} in attention, {bandwidth} \
         of memory bandwidth,\n\
         {} ms of overhead a step; of n devices' speed-up: {}.\n\
         The price is an order of magnitude: put yours.",
        device.source,
        model.source,
        OVERHEAD_US / 1e3,
        efficiencies.join(", "),
    );
    let file = format!("{}-{}", model.slug, device.slug);
    (!profile.parallelism.is_empty()).then_some(Sourced { file, comment, profile })
}

fn profile(model: &Transformer, device: &Accelerator) -> DeviceProfile {
    let whole = BatchLimits { max_batch_tokens: 2048, chunk_tokens: 2048, max_running: 256 };
    DeviceProfile {
        model: ModelShape {
            name: model.name.into(),
            layers: model.layers,
            kv_heads: model.kv_heads,
            head_dim: model.head_dim,
            kv_dtype: KvDtype::F16,
            weights_bytes: (ELEMENT * model.parameters) as u64,
            max_context: model.max_context,
        },
        device: Device {
            name: device.name.into(),
            memory_bytes: device.memory_bytes,
            price_per_hour: device.price_per_hour,
            link_bytes_per_second: device.link_bytes_per_second,
            link_latency_us: None,
        },
        scheduler: whole,
        colocated_scheduler: BatchLimits { max_batch_tokens: 512, chunk_tokens: 512, ..whole },
        parallelism: Vec::new(),
    }
}

/// DistServe's coefficients for one device, milliseconds (OSDI'24, its simulator's fit).
mod distserve {
    pub(super) const PREFILL: f64 = 18.10;
    pub(super) const PREFILL_TOKEN: f64 = 0.1019;
    /// Of ΣL², where a profile has L·L/2.
    pub(super) const PREFILL_SQUARE: f64 = 7.12e-6;
    /// Batches below 95.
    pub(super) const DECODE: f64 = 19.93;
    pub(super) const DECODE_CONTEXT: f64 = 6.27e-4;
    pub(super) const DECODE_SEQUENCE: f64 = 0.0385;
    pub(super) const SMALL_BATCHES: u32 = 94;
}

fn opt_13b_a100() -> Sourced {
    let mut profile = profile(&OPT_13B, &A100);
    let coefficients = [
        distserve::PREFILL,
        distserve::PREFILL_TOKEN,
        2.0 * distserve::PREFILL_SQUARE,
        distserve::DECODE,
        distserve::DECODE_SEQUENCE,
        distserve::DECODE_CONTEXT,
    ]
    .map(|milliseconds| rounded(1e3 * milliseconds));
    let steps = LatencyProfile::from_coefficients(coefficients, Mixing::Sum);
    profile.parallelism = vec![Parallelism::new(1, steps)];
    profile.scheduler.max_running = distserve::SMALL_BATCHES;
    profile.colocated_scheduler.max_running = distserve::SMALL_BATCHES;
    profile.device.link_bytes_per_second = 300e9;
    let comment = "Step costs: measured and fitted by DistServe (OSDI'24) for OPT-13B on one A100: \
         prefill 18.10 ms\n\
         + 0.1019 ms/token + 7.12e-6 ms·ΣL² (prefill_attention_us is of L·L/2: twice that), decode \
         19.93 ms\n\
         + 0.0385 ms/sequence + 6.27e-4 ms/token of context. That is its fit for batches below 95; \
         the other\n\
         one (7.17, 0.158, 5.80e-4) is below it up to about 107 sequences, so no line bounds both: \
         the batch\n\
         stays below 95 (max_running), as nearly it must, for the pool holds some 56 thousand \
         tokens.\n\
         Device: NVIDIA A100 80GB SXM datasheet. Link: NVLink, 300 GB/s a direction, as DistServe \
         places both\n\
         phases in one machine; by 25 Gb/s between machines its cache would be too large to move.\n\
         The price is an order of magnitude: put yours.";
    Sourced { file: "opt-13b-a100".into(), comment: comment.into(), profile }
}

#[cfg(test)]
mod tests {
    use baton_types::StepShape;

    use super::*;

    /// What the assumptions give is near what was measured, over the range that matters.
    #[test]
    fn the_roofline_meets_the_measured_profile_within_three_tenths() {
        let measured = opt_13b_a100().profile.parallelism[0].steps();
        let computed = steps(&OPT_13B, &A100, 1);
        let mut shapes = Vec::new();
        for tokens in [64, 256, 512, 1024, 2048] {
            let mut shape = StepShape::default();
            shape.add_prefill(tokens, 0);
            shapes.push(shape);
        }
        for batch in [1, 8, 32, 64, 94] {
            for context in [64, 512] {
                let mut shape = StepShape::default();
                (0..batch).for_each(|_| shape.add_decode(context));
                shapes.push(shape);
            }
        }
        for shape in shapes {
            let ratio = computed.step(&shape).as_secs_f64() / measured.step(&shape).as_secs_f64();
            assert!((0.8..=1.3).contains(&ratio), "{shape:?}: {ratio:.3}");
        }
    }

    #[test]
    fn more_devices_are_faster_but_not_as_much_as_they_are_more() {
        let mut shape = StepShape::default();
        shape.add_prefill(1024, 0);
        let took = |n| steps(&LLAMA_3_70B, &H100, n).step(&shape).as_secs_f64();
        for (few, many) in [(2, 4), (4, 8)] {
            let gain = took(few) / took(many);
            assert!(gain > 1.4 && gain < 2.0, "{few} → {many}: {gain:.2}");
        }
    }
}
