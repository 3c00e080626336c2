//! The simulated engine in a real node: its digests lie in the KV arena, so that real pages travel,
//! and its steps take real time.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use baton_device::{Arena, PageError};
use baton_scheduler::sim::{KvSlots, Pace, PageBusy, SLOT_BYTES};
use baton_types::BlockId;

/// The arena as the simulated engine sees it: the first bytes of each page are its block's digests.
#[derive(Clone, Debug)]
pub(crate) struct ArenaSlots(pub(crate) Arc<Arena>);

impl KvSlots for ArenaSlots {
    fn store(
        &self,
        layer: u32,
        block: BlockId,
        slot: u32,
        digests: &[u128],
    ) -> Result<(), PageBusy> {
        let mut page = self.0.write(layer, block).map_err(busy)?;
        let slots = page[slot as usize * SLOT_BYTES..].chunks_exact_mut(SLOT_BYTES);
        for (bytes, digest) in slots.zip(digests) {
            bytes.copy_from_slice(&digest.to_le_bytes());
        }
        Ok(())
    }

    fn load(
        &self,
        layer: u32,
        block: BlockId,
        slot: u32,
        digests: &mut [u128],
    ) -> Result<(), PageBusy> {
        let page = self.0.read(layer, block).map_err(busy)?;
        let slots = page[slot as usize * SLOT_BYTES..].chunks_exact(SLOT_BYTES);
        for (bytes, digest) in slots.zip(digests) {
            *digest = u128::from_le_bytes(bytes.try_into().expect("a chunk is one slot"));
        }
        Ok(())
    }
}

fn busy(error: PageError) -> PageBusy {
    tracing::warn!(%error, "the simulated engine met a busy page");
    PageBusy
}

/// Sleeps, and makes up for having overslept before.
#[derive(Debug)]
pub(crate) struct RealPace {
    until: Instant,
    /// When it last woke up.
    woke: Instant,
}

/// The most a late sleeper makes up for. Who comes back later than that was idle.
const MAX_CATCH_UP: Duration = Duration::from_millis(1);

impl RealPace {
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        RealPace { until: now, woke: now }
    }
}

impl Pace for RealPace {
    fn spend(&mut self, time: Duration) {
        if time.is_zero() {
            return;
        }
        let now = Instant::now();
        let was_idle = now.duration_since(self.woke) > MAX_CATCH_UP;
        let earliest = now.checked_sub(MAX_CATCH_UP).filter(|_| !was_idle).unwrap_or(now);
        self.until = self.until.max(earliest) + time;
        thread::sleep(self.until.saturating_duration_since(now));
        self.woke = Instant::now();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_was_idle_makes_up_for_nothing() {
        const STEP: Duration = Duration::from_millis(4);
        let mut pace = RealPace::new();
        for _ in 0..3 {
            thread::sleep(2 * MAX_CATCH_UP);
            let before = Instant::now();
            pace.spend(STEP);
            assert!(before.elapsed() >= STEP, "{:?}", before.elapsed());
        }
    }
}
