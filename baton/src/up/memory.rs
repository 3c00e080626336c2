//! Whether a cluster fits this machine's memory.

use super::UpError;

/// What the nodes of a cluster will take, in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Need {
    pub(super) nodes: u64,
    /// KV pool of each.
    pub(super) kv: u64,
    /// Weights of each: every process holds its own.
    pub(super) weights: u64,
}

impl Need {
    /// Refuses when `available` bytes aren't enough.
    pub(super) fn fits(self, available: u64) -> Result<(), UpError> {
        let needed = self.nodes.saturating_mul(self.kv.saturating_add(self.weights));
        if needed <= available {
            return Ok(());
        }
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        Err(UpError::Memory {
            nodes: self.nodes,
            needed_mib: mib(needed),
            kv_mib: mib(self.kv),
            weights_mib: mib(self.weights),
            available_mib: available >> 20,
        })
    }
}

/// Memory that can be used without swapping, in bytes; unknown where the system doesn't tell.
pub(super) fn available() -> Option<u64> {
    parse_available(&std::fs::read_to_string("/proc/meminfo").ok()?)
}

fn parse_available(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn available_memory_is_read_in_bytes() {
        let meminfo = "MemTotal:  24 kB\nMemAvailable:    2048 kB\nBuffers: 1 kB\n";
        assert_eq!(parse_available(meminfo), Some(2048 * 1024));
        assert_eq!(parse_available("MemTotal: 24 kB\n"), None);
    }

    #[test]
    fn a_cluster_that_does_not_fit_is_refused_with_both_values() {
        let need = Need { nodes: 3, kv: 512 << 20, weights: 100 << 20 };
        assert!(need.fits(1836 << 20).is_ok());
        let error = need.fits(1000 << 20).unwrap_err().to_string();
        assert!(error.contains("1836 MiB") && error.contains("1000 MiB"), "{error}");
        assert!(Need { nodes: 2, kv: u64::MAX, weights: 1 }.fits(u64::MAX - 1).is_err());
    }
}
