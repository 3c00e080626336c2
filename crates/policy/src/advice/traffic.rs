//! What came, and what became of it.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use crate::ClassId;
use baton_types::{ModelId, Slo, Time};

/// Requests of each model that are remembered one by one.
const REMEMBERED: usize = 256;
/// Models that are known at once.
const MAX_MODELS: usize = 1024;
/// The shorter window, and the least time that a rate is told of, as shares of the window.
const SHORT: f64 = 0.25;
const LEAST_SEEN: f64 = 0.1;

/// The latest requests of every model, but for those of batches, which wait for what is left.
#[derive(Clone, Debug)]
pub struct Traffic {
    /// Over how long rates are measured.
    window: Duration,
    models: BTreeMap<ModelId, Seen>,
    /// Requests a second that come to other routers, which nothing else is known of.
    elsewhere: BTreeMap<ModelId, f64>,
}

/// One model's.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    since: Time,
    last: Time,
    /// Every arrival counts for one and fades, over the window and over a shorter one.
    counts: [f64; 2],
    pub(super) asked: VecDeque<Asked>,
    pub(super) ended: VecDeque<Ended>,
}

/// A request as it came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Asked {
    pub(crate) at: Time,
    pub(crate) class: ClassId,
    /// Of its prompt,
    pub(crate) tokens: u32,
    /// and those of them that no node has cached.
    pub(crate) new_tokens: u32,
    pub(crate) max_new_tokens: u32,
    pub(crate) slo: Slo,
}

/// What became of one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Ended {
    pub(crate) at: Time,
    /// None: it was refused.
    pub(crate) ttft: Option<Duration>,
    /// None of one token alone.
    pub(crate) tpot: Option<Duration>,
    pub(crate) slo: Slo,
}

impl Traffic {
    /// That measures rates over a window.
    pub fn new(window: Duration) -> Self {
        Traffic { window, models: BTreeMap::new(), elsewhere: BTreeMap::new() }
    }

    pub(crate) fn asked(&mut self, model: &ModelId, asked: Asked) {
        let window = self.window;
        let Some(seen) = self.seen_mut(model, asked.at) else { return };
        seen.counts = seen.faded(window, asked.at).map(|count| count + 1.0);
        seen.last = seen.last.max(asked.at);
        remember(&mut seen.asked, asked);
    }

    pub(crate) fn ended(&mut self, model: &ModelId, ended: Ended) {
        if let Some(seen) = self.seen_mut(model, ended.at) {
            remember(&mut seen.ended, ended);
        }
    }

    pub(super) fn of(&self, model: &ModelId) -> Option<&Seen> {
        self.models.get(model)
    }

    /// Requests a second that come to other routers, which are taken to be like those that come here.
    pub fn set_elsewhere(&mut self, rates: BTreeMap<ModelId, f64>) {
        self.elsewhere = rates;
    }

    /// Requests a second that come here, by model.
    pub fn rates(&self, now: Time) -> BTreeMap<ModelId, f64> {
        self.models.keys().map(|model| (model.clone(), self.rate_here(model, now))).collect()
    }

    /// Requests a second, here and elsewhere.
    pub(super) fn rate(&self, model: &ModelId, now: Time) -> f64 {
        self.rate_here(model, now) + self.elsewhere.get(model).copied().unwrap_or(0.0)
    }

    /// Over the window, or what of a surge since is beyond chance.
    fn rate_here(&self, model: &ModelId, now: Time) -> f64 {
        let Some(seen) = self.models.get(model) else { return 0.0 };
        let [long, short] = seen.faded(self.window, now);
        let elapsed = now.since(seen.since).as_secs_f64();
        let rate = |count: f64, window: f64| {
            let elapsed = elapsed.max(LEAST_SEEN * self.window.as_secs_f64());
            count / (window * (1.0 - (-elapsed / window).exp()))
        };
        let [over, short_over] = windows(self.window);
        let surge = rate(short, short_over);
        // A fading count of Poisson arrivals at rate r over a window w has variance rw/2.
        let chance = 2.0 * (surge / (2.0 * short_over)).sqrt();
        rate(long, over).max(surge - chance)
    }

    fn seen_mut(&mut self, model: &ModelId, now: Time) -> Option<&mut Seen> {
        if !self.models.contains_key(model) && self.models.len() >= MAX_MODELS {
            return None;
        }
        let new = || Seen {
            since: now,
            last: now,
            counts: [0.0; 2],
            asked: VecDeque::new(),
            ended: VecDeque::new(),
        };
        Some(self.models.entry(model.clone()).or_insert_with(new))
    }
}

impl Default for Traffic {
    fn default() -> Self {
        Traffic::new(super::AdviceConfig::default().window)
    }
}

impl Seen {
    fn faded(&self, window: Duration, now: Time) -> [f64; 2] {
        let gap = now.since(self.last).as_secs_f64();
        let [long, short] = windows(window).map(|window| (-gap / window).exp());
        [self.counts[0] * long, self.counts[1] * short]
    }
}

/// Seconds.
fn windows(window: Duration) -> [f64; 2] {
    [1.0, SHORT].map(|share| (share * window.as_secs_f64()).max(1e-3))
}

fn remember<T>(ring: &mut VecDeque<T>, latest: T) {
    if ring.len() >= REMEMBERED {
        ring.pop_front();
    }
    ring.push_back(latest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_follow_what_comes_and_fade_when_nothing_does() {
        let (model, mut traffic) = (ModelId::from("m"), Traffic::new(Duration::from_secs(30)));
        let at = |ms: u64| Time::from_nanos(ms * 1_000_000);
        let asked = |ms| Asked {
            class: ClassId::default(),
            at: at(ms),
            tokens: 10,
            new_tokens: 10,
            max_new_tokens: 5,
            slo: Slo::default(),
        };
        assert_eq!(traffic.rate(&model, at(0)), 0.0);
        (0..600).for_each(|n| traffic.asked(&model, asked(n * 100)));
        let rate = traffic.rate(&model, at(60_000));
        assert!((9.5..10.5).contains(&rate), "{rate}");
        // Three times as many: seen within seconds.
        (0..300).for_each(|n| traffic.asked(&model, asked(60_000 + n * 33)));
        let surge = traffic.rate(&model, at(70_000));
        assert!((20.0..30.0).contains(&surge), "{surge}");
        let after = traffic.rate(&model, at(160_000));
        assert!(after < 2.0, "{after}");
        assert_eq!(traffic.of(&model).map(|seen| seen.asked.len()), Some(REMEMBERED));
        // Other routers' count, and aren't told to them as this one's.
        let here = traffic.rates(at(160_000));
        traffic.set_elsewhere([(model.clone(), 7.5)].into());
        assert_eq!(traffic.rate(&model, at(160_000)), here[&model] + 7.5);
        assert_eq!(traffic.rates(at(160_000)), here);
    }
}
