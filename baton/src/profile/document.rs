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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use baton_proto::v1;
    use baton_sim::plan::measure::Link;
    use baton_types::LatencyProfile;

    use super::*;

    fn node(name: &str, phase: v1::Phase, total_blocks: u32) -> Node {
        Node {
            name: name.to_owned(),
            phase: phase.into(),
            model: "m".to_owned(),
            layers: 30,
            kv_heads: 3,
            head_dim: 64,
            block_tokens: 32,
            kv_dtype: v1::KvDtype::F16.into(),
            total_blocks,
            max_context: 2048,
            weights_bytes: 90_000_001,
            max_batch_tokens: 512,
            chunk_tokens: 128,
            max_running: 16,
            ..Node::default()
        }
    }

    fn measured<'a>(prefill: &'a Node, decode: &'a Node) -> Measured<'a> {
        let fit = PhaseFit {
            learned: 80,
            held_out: 20,
            median_error: 0.0123,
            p90_error: 0.2,
            sizes: (1, 64),
        };
        let steps =
            StepFit { costs: LatencyProfile::default(), prefill: fit, decode: fit, mixed: 0 };
        let link = Link { rtt_us: 300.0, bytes_per_second: 2.5e9 };
        Measured {
            prefill: vec![prefill],
            decode: vec![decode],
            steps,
            link: LinkFit::Measured { link, transfers: 9 },
            requests: 77,
            seconds: 60.0,
            at: SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            url: "http://there:8000",
            device: None,
            price: None,
        }
    }

    #[test]
    fn the_profile_has_the_nodes_pools_limits_and_link() {
        let (prefill, decode) =
            (node("p", v1::Phase::Prefill, 333), node("d", v1::Phase::Decode, 400));
        let profile = measured(&prefill, &decode).profile().unwrap();
        profile.validate().unwrap();
        // The smaller pool, in the planner's blocks of 16 tokens.
        assert_eq!(profile.kv_blocks(1), Ok(2 * 333));
        assert_eq!((profile.scheduler.chunk_tokens, profile.scheduler.max_running), (128, 16));
        assert_eq!(profile.device.link_bytes_per_second, 2.5e9);
        assert_eq!(profile.device.link_latency_us, Some(150.0));
        let text = toml::to_string(&profile).unwrap();
        assert_eq!(toml::from_str::<DeviceProfile>(&text).unwrap(), profile);
    }

    #[test]
    fn the_header_says_how_good_it_is_and_what_is_no_measurement() {
        let (prefill, decode) =
            (node("p7", v1::Phase::Prefill, 9), node("d8", v1::Phase::Decode, 9));
        let mut measured = measured(&prefill, &decode);
        let header = |measured: &Measured<'_>| {
            let text = measured.header();
            assert!(text.lines().all(|line| line.starts_with("# ") && line.len() <= 102), "{text}");
            text.replace("\n# ", " ")
        };
        let text = header(&measured);
        for part in
            ["p7", "d8", "2027", "http://there:8000", "1.2 %", "20.0 %", "placeholder", "2.500"]
        {
            assert!(text.contains(part), "{part:?} isn't in {text}");
        }
        measured.price = Some(2.0);
        measured.link = LinkFit::AtLeast { bytes_per_second: 1e6 };
        let text = header(&measured);
        assert!(!text.contains("placeholder") && text.contains("not measured"), "{text}");
        let default = NetworkConfig::default().bytes_per_second;
        assert_eq!(measured.profile().unwrap().device.link_bytes_per_second, default);
    }
}
