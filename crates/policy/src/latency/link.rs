use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::micros;

/// What moves pages to one node.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Link {
    pub rtt_us: f64,
    pub bytes_per_second: f64,
}

/// Ten gigabits.
impl Default for Link {
    fn default() -> Self {
        Link { rtt_us: 200.0, bytes_per_second: 1.25e9 }
    }
}

/// A transfer as it came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    pub bytes: u64,
    /// How long the prompt was to take.
    pub prefill: Duration,
    /// What was left of the transfer when the prompt was done.
    pub exposed: Duration,
    /// From the placement to the last page.
    pub elapsed: Duration,
}

/// What the latest transfer counts for, if it is large,
const WEIGHT: f64 = 0.1;
/// and half of it: so few bytes say more of what else happened than of the link.
const FEW_BYTES: f64 = (1 << 20) as f64;

impl Link {
    /// What of moving `bytes` in `layers` equal parts is left when a prefill of `prefill` ends: a
    /// layer's pages go while the later layers are computed, the last layer's can't.
    pub fn exposed(&self, bytes: u64, layers: u32, prefill: Duration) -> Duration {
        let whole = bytes as f64 / self.bytes_per_second * 1e6;
        let last = whole / f64::from(layers.max(1));
        let hidden = prefill.as_secs_f64() * 1e6 * (1.0 - 1.0 / f64::from(layers.max(1)));
        micros(self.rtt_us + (whole - hidden).max(last))
    }

    /// Learns from `moved`. Most transfers hide behind their prefill, and say no more than that the
    /// link isn't slower than this; what they leave exposed at least is their last layer.
    pub fn observe(&mut self, moved: &Moved, layers: u32) {
        let Moved { bytes, prefill, exposed, elapsed } = *moved;
        let (bytes, layers) = (bytes as f64, f64::from(layers.max(1)));
        let (exposed, rtt) = (exposed.as_secs_f64(), self.rtt_us / 1e6);
        let slowest = bytes / elapsed.as_secs_f64();
        if slowest.is_finite() && slowest > self.bytes_per_second {
            self.bytes_per_second = slowest;
        }
        let last_layer = bytes / self.bytes_per_second / layers;
        let hidden = prefill.as_secs_f64() * (1.0 - 1.0 / layers);
        let seen = if exposed > 2.0 * (rtt + last_layer) {
            bytes / (hidden + exposed - rtt)
        } else if exposed < rtt + last_layer {
            bytes / (layers * exposed)
        } else {
            return;
        };
        if seen > 0.0 && seen.is_finite() {
            let weight = WEIGHT * bytes / (bytes + FEW_BYTES);
            self.bytes_per_second *= (seen / self.bytes_per_second).powf(weight);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transfer_hides_behind_its_prefill_but_for_the_last_layer() {
        let link = Link { rtt_us: 10.0, bytes_per_second: 1e6 };
        let exposed = |prefill| link.exposed(1000, 10, Duration::from_micros(prefill));
        assert_eq!(exposed(0), Duration::from_micros(1010));
        assert_eq!(exposed(500), Duration::from_micros(10 + 550));
        assert_eq!(exposed(100_000), Duration::from_micros(110));
    }

    /// Transfers over `real`, of prompts that take `prefill` µs, as `learning` is told of them.
    fn watch(learning: &mut Link, real: Link, prefill: u64) {
        let prefill = Duration::from_micros(prefill);
        for megabytes in 1..400 {
            let bytes = megabytes % 20 * 1_000_000;
            let exposed = real.exposed(bytes, 32, prefill);
            learning.observe(&Moved { bytes, prefill, exposed, elapsed: prefill + exposed }, 32);
        }
    }

    #[test]
    fn a_link_is_learned_from_what_it_leaves_exposed() {
        let real = Link { rtt_us: 50.0, bytes_per_second: 2e9 };
        for guess in [2e7, 2e9, 2e11] {
            let mut link = Link { bytes_per_second: guess, ..real };
            watch(&mut link, real, 1000);
            let off = link.bytes_per_second / real.bytes_per_second;
            assert!((0.8..1.25).contains(&off), "{guess}: {link:?}");
        }
    }

    #[test]
    fn hidden_transfers_say_how_slow_a_link_is_at_most() {
        let real = Link { rtt_us: 50.0, bytes_per_second: 2e9 };
        let mut link = Link { bytes_per_second: 1e6, ..real };
        watch(&mut link, real, 50_000);
        let prefill = Duration::from_millis(50);
        let exposed = |link: Link| link.exposed(10_000_000, 32, prefill).as_secs_f64();
        let off = exposed(link) / exposed(real);
        assert!((0.5..2.0).contains(&off), "{link:?}: {off}");
        let before = link;
        link.observe(&Moved::default(), 32);
        assert_eq!(link, before, "nothing moved");
    }
}
