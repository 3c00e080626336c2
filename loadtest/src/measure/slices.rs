//! A run in slices of equal length, by when requests were due: for its timeline, and as blocks to draw from again.

use std::time::Duration;

use super::histogram::Histogram;

/// At most so many; when there would be more, two become one.
const MOST: usize = 128;
const SHORTEST: Duration = Duration::from_millis(250);

/// A bounded number of slices, however long the run is.
#[derive(Clone, Debug)]
pub struct Slices {
    width: Duration,
    all: Vec<Slice>,
}

/// What was due in one, and what happened meanwhile.
#[derive(Clone, Debug)]
pub struct Slice {
    pub offered: u64,
    pub met: u64,
    pub met_ttft: u64,
    pub met_tpot: u64,
    pub completed: u64,
    pub refused: u64,
    pub failed: u64,
    pub ttft: Histogram,
    pub tpot: Histogram,
    pub e2e: Histogram,
    /// Not of those that were due in it, but while it was:
    pub began: u64,
    pub ended: u64,
    pub tokens: u64,
}

impl Default for Slice {
    fn default() -> Self {
        Slice {
            offered: 0,
            met: 0,
            met_ttft: 0,
            met_tpot: 0,
            completed: 0,
            refused: 0,
            failed: 0,
            ttft: Histogram::coarse(),
            tpot: Histogram::coarse(),
            e2e: Histogram::coarse(),
            began: 0,
            ended: 0,
            tokens: 0,
        }
    }
}

impl Slice {
    fn add(&mut self, other: &Slice) {
        self.offered += other.offered;
        self.met += other.met;
        self.met_ttft += other.met_ttft;
        self.met_tpot += other.met_tpot;
        self.completed += other.completed;
        self.refused += other.refused;
        self.failed += other.failed;
        self.ttft.add(&other.ttft);
        self.tpot.add(&other.tpot);
        self.e2e.add(&other.e2e);
        self.began += other.began;
        self.ended += other.ended;
        self.tokens += other.tokens;
    }
}

impl Default for Slices {
    fn default() -> Self {
        Slices { width: SHORTEST, all: Vec::new() }
    }
}

impl Slices {
    /// The one that `at` is in.
    pub fn at(&mut self, at: Duration) -> &mut Slice {
        while self.index(at) >= MOST {
            self.widen();
        }
        let index = self.index(at);
        if self.all.len() <= index {
            self.all.resize_with(index + 1, Slice::default);
        }
        &mut self.all[index]
    }

    pub fn width(&self) -> Duration {
        self.width
    }

    /// Each with its beginning, in order.
    pub fn iter(&self) -> impl Iterator<Item = (Duration, &Slice)> {
        self.all.iter().enumerate().map(|(nth, slice)| (self.width * nth as u32, slice))
    }

    /// All of the other's, too.
    pub fn add(&mut self, mut other: Slices) {
        while other.width < self.width {
            other.widen();
        }
        while self.width < other.width {
            self.widen();
        }
        if self.all.len() < other.all.len() {
            self.all.resize_with(other.all.len(), Slice::default);
        }
        for (own, other) in self.all.iter_mut().zip(&other.all) {
            own.add(other);
        }
    }

    /// At most so many blocks of the slices that begin from `from` on and before `to`.
    pub fn blocks(&self, from: Duration, to: Duration, most: usize) -> Vec<Slice> {
        let within =
            || self.iter().filter(|(at, _)| (from..to).contains(at)).map(|(_, slice)| slice);
        let together = within().count().div_ceil(most.max(1)).max(1);
        let slices: Vec<&Slice> = within().collect();
        slices
            .chunks(together)
            .map(|chunk| {
                let mut block = Slice::default();
                chunk.iter().for_each(|slice| block.add(slice));
                block
            })
            .collect()
    }

    fn index(&self, at: Duration) -> usize {
        usize::try_from(at.as_nanos() / self.width.as_nanos()).unwrap_or(usize::MAX)
    }

    fn widen(&mut self) {
        self.width *= 2;
        let narrow = std::mem::take(&mut self.all);
        self.all = narrow
            .chunks(2)
            .map(|pair| {
                let mut slice = pair[0].clone();
                pair[1..].iter().for_each(|other| slice.add(other));
                slice
            })
            .collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_run_takes_no_more_room() {
        let mut slices = Slices::default();
        for second in 0..100_000 {
            slices.at(Duration::from_secs(second)).offered += 1;
        }
        assert!(slices.all.len() <= MOST);
        assert_eq!(slices.iter().map(|(_, slice)| slice.offered).sum::<u64>(), 100_000);
        let (at, slice) = slices.iter().nth(1).unwrap();
        assert_eq!(at, slices.width());
        assert_eq!(slice.offered, slices.width().as_secs());
    }

    #[test]
    fn slices_of_other_widths_become_one() {
        let (mut one, mut other) = (Slices::default(), Slices::default());
        one.at(Duration::from_secs(1)).offered = 3;
        other.at(Duration::from_secs(1000)).offered = 5;
        one.add(other);
        assert_eq!(one.iter().map(|(_, slice)| slice.offered).sum::<u64>(), 8);
        assert_eq!(one.at(Duration::from_secs(1)).offered, 3);
        assert_eq!(one.blocks(Duration::ZERO, Duration::MAX, 10).len(), 10);
    }
}
