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

/// Sleeps, and makes up for having overslept before: a device isn't late because its host is.
#[derive(Debug)]
pub(crate) struct RealPace {
    /// When what was spent last is over; none after a rest.
    until: Option<Instant>,
}

/// The most a late sleeper makes up for: who comes back later than that was stopped.
const MAX_CATCH_UP: Duration = Duration::from_millis(10);

impl RealPace {
    pub(crate) fn new() -> Self {
        RealPace { until: None }
    }
}

impl Pace for RealPace {
    fn spend(&mut self, time: Duration) {
        if time.is_zero() {
            return;
        }
        let now = Instant::now();
        let earliest = now.checked_sub(MAX_CATCH_UP).unwrap_or(now);
        let until = self.until.map_or(now, |until| until.max(earliest)) + time;
        self.until = Some(until);
        thread::sleep(until.saturating_duration_since(now));
    }

    fn rest(&mut self) {
        self.until = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_millis(4);

    #[test]
    fn who_rested_makes_up_for_nothing() {
        let mut pace = RealPace::new();
        for _ in 0..3 {
            pace.rest();
            thread::sleep(STEP);
            let before = Instant::now();
            pace.spend(STEP);
            assert!(before.elapsed() >= STEP, "{:?}", before.elapsed());
        }
    }

    #[test]
    fn who_was_late_is_in_time_again_by_the_next_step() {
        let mut pace = RealPace::new();
        let begin = Instant::now();
        pace.spend(STEP);
        // The host was busy.
        thread::sleep(STEP);
        let late = Instant::now();
        pace.spend(2 * STEP);
        assert!(begin.elapsed() >= 3 * STEP, "{:?}", begin.elapsed());
        let until = pace.until.unwrap();
        assert!(until < late + 2 * STEP, "{STEP:?} were made up for");
    }
}
