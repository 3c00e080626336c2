//! The profile as a file: what was measured, and above it how.

use std::{fmt::Write, time::SystemTime};

use baton_proto::{ConvertError, v1::Node};
use baton_sim::{
    NetworkConfig,
    plan::{
        BatchLimits, Device, DeviceProfile, MEMORY_SHARE, ModelShape, Parallelism,
        measure::{LinkFit, PhaseFit, StepFit},
    },
};
use baton_types::KvLayout;

/// Any, so that there is one.
const PLACEHOLDER_PRICE: f64 = 1.0;

/// Everything a profile says.
#[derive(Debug)]
pub(super) struct Measured<'a> {
    pub(super) prefill: Vec<&'a Node>,
    pub(super) decode: Vec<&'a Node>,
    pub(super) steps: StepFit,
    pub(super) link: LinkFit,
    pub(super) requests: usize,
    pub(super) seconds: f64,
    pub(super) at: SystemTime,
    pub(super) url: &'a str,
    pub(super) device: Option<&'a str>,
    pub(super) price: Option<f64>,
}

impl Measured<'_> {
    pub(super) fn profile(&self) -> Result<DeviceProfile, ConvertError> {
        let (prefill, decode) = (self.prefill[0], self.decode[0]);
        let layout @ KvLayout { layers, kv_heads, head_dim, dtype, .. } = decode.layout()?;
        let blocks = u64::from(prefill.total_blocks.min(decode.total_blocks));
        let weights_bytes = decode.weights_bytes;
        let pool = blocks * layout.block_bytes() as u64;
        let limits = BatchLimits {
            max_batch_tokens: prefill.max_batch_tokens,
            chunk_tokens: prefill.chunk_tokens,
            max_running: decode.max_running,
        };
        let default = NetworkConfig::default();
        let (link_bytes_per_second, link_latency_us) = match self.link {
            // A round trip has two ways.
            LinkFit::Measured { link, .. } => (link.bytes_per_second, Some(link.rtt_us / 2.0)),
            LinkFit::AtLeast { bytes_per_second } => {
                (bytes_per_second.max(default.bytes_per_second), None)
            }
            LinkFit::Unknown => (default.bytes_per_second, None),
        };
        Ok(DeviceProfile {
            model: ModelShape {
                name: decode.model.clone(),
                layers,
                kv_heads,
                head_dim,
                kv_dtype: dtype,
                weights_bytes,
                max_context: decode.max_context,
            },
            device: Device {
                name: self.device.map_or_else(|| format!("{}'s", decode.name), str::to_owned),
                memory_bytes: ((weights_bytes + pool) as f64 / MEMORY_SHARE).ceil() as u64,
                price_per_hour: self.price.unwrap_or(PLACEHOLDER_PRICE),
                link_bytes_per_second: link_bytes_per_second.round(),
                link_latency_us: link_latency_us.map(rounded),
            },
            scheduler: limits,
            colocated_scheduler: limits,
            parallelism: vec![Parallelism::new(1, self.steps.costs.map(rounded))],
        })
    }

    /// What a reader must know before using the figures.
    pub(super) fn header(&self) -> String {
        let mut text = String::new();
        let StepFit { prefill, decode, mixed, .. } = &self.steps;
        let mut line = |words: String| {
            for line in wrapped(&words) {
                let _ = writeln!(text, "# {line}");
            }
        };
        line(format!(
            "Measured by `baton profile` {} on {} at {}: {} requests in {:.0} s, which {} computed and {} \
             decoded.",
            env!("CARGO_PKG_VERSION"),
            httpdate::fmt_http_date(self.at),
            self.url,
            self.requests,
            self.seconds,
            names(&self.prefill),
            names(&self.decode),
        ));
        line(format!("Prefill: {}", told(prefill, "tokens")));
        line(format!("Decode: {}", told(decode, "sequences")));
        line(match mixed {
            0 => "No step did both: mixing is assumed.".to_owned(),
            steps => format!("{steps} steps did both."),
        });
        line(match self.link {
            LinkFit::Measured { link, transfers } => format!(
                "Link: {:.3} GB/s and {:.0} µs a round trip, by {transfers} transfers.",
                link.bytes_per_second / 1e9,
                link.rtt_us
            ),
            LinkFit::AtLeast { bytes_per_second } => format!(
                "Link: not measured, for pages were there when the prompts were done; it has {:.3} GB/s \
                 at least.",
                bytes_per_second / 1e9
            ),
            LinkFit::Unknown => "Link: not measured, for nothing was transferred.".to_owned(),
        });
        line(format!(
            "Memory: what makes the nodes' KV pools, {} and {} blocks of {} tokens, of what the weights \
             leave; not what the machines have.",
            self.prefill[0].total_blocks, self.decode[0].total_blocks, self.decode[0].block_tokens
        ));
        if self.price.is_none() {
            line("The price is a placeholder: put yours, or --price.".to_owned());
        }
        text
    }
}

fn told(fit: &PhaseFit, unit: &str) -> String {
    let PhaseFit { learned, held_out, median_error, p90_error, sizes: (least, most) } = fit;
    format!(
        "fitted to {learned} steps of {least} to {most} {unit}; of {held_out} others half are predicted \
         within {:.1} %, nine in ten within {:.1} %.",
        100.0 * median_error,
        100.0 * p90_error
    )
}

fn names(nodes: &[&Node]) -> String {
    nodes.iter().map(|node| &node.name[..]).collect::<Vec<_>>().join(", ")
}

/// To four figures: more weren't measured.
fn rounded(value: f64) -> f64 {
    format!("{value:.3e}").parse().unwrap_or(value)
}

/// Lines of a comment.
fn wrapped(words: &str) -> Vec<String> {
    const WIDTH: usize = 100;
    let mut lines = vec![String::new()];
    for word in words.split_whitespace() {
        let last = lines.last_mut().filter(|line| line.len() + word.len() < WIDTH);
        match last {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) => *line += &format!(" {word}"),
            None => lines.push(word.to_owned()),
        }
    }
    lines
}
