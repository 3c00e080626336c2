//! What comes to the other routers, from the leases that they keep.
//!
//! # When does a router's word count no more?
//!
//! When it wasn't renewed for a lease, by this router's clock, while the API server was heard: this router's own renewals,
//! coming back, tell how far. So while the API server is away everybody's word stays what it was last. After
//! a new beginning everybody has a lease's time again.

use std::{collections::BTreeMap, time::Duration};

use baton_types::Time;

use crate::{Rates, held};

/// A lease that goes unrenewed so often for its length has nobody who would come back to it.
const DEAD: u32 = 3;

/// What one router says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Word {
    /// Another one for each time it was said.
    pub(super) version: String,
    pub(super) rates: Rates,
    pub(super) lease: Duration,
}

#[derive(Debug)]
struct Heard {
    word: Word,
    since: Time,
}

/// All routers' words, by the names of their leases.
#[derive(Debug)]
pub(super) struct Words {
    own: String,
    heard: BTreeMap<String, Heard>,
    /// When the API server was heard last, for sure.
    latest: Time,
}

impl Words {
    pub(super) fn new(own: String) -> Self {
        Words { own, heard: BTreeMap::new(), latest: Time::ZERO }
    }

    /// These are all there are. `anew`: what was in between isn't known.
    pub(super) fn hear(&mut self, now: Time, anew: bool, words: BTreeMap<String, Word>) {
        let mut before = std::mem::take(&mut self.heard);
        if anew {
            self.latest = now;
        }
        for (name, word) in words {
            let known = before.remove(&name).filter(|known| known.word.version == word.version);
            let since = known.map(|known| known.since).filter(|_| !anew).unwrap_or(now);
            if name == self.own {
                self.latest = self.latest.max(since);
            }
            self.heard.insert(name, Heard { word, since });
        }
    }

    /// What comes to all others.
    pub(super) fn elsewhere(&self) -> Rates {
        let counts = |(name, heard): &(&String, &Heard)| {
            **name != self.own && self.age(heard) < heard.word.lease
        };
        held::sum(self.heard.iter().filter(counts).map(|(_, heard)| &heard.word.rates))
    }

    /// Leases of the dead, with the versions that they were seen in.
    pub(super) fn dead(&self) -> impl Iterator<Item = (&str, &str)> {
        let dead = self.heard.iter().filter(|(name, heard)| {
            **name != self.own && self.age(heard) >= heard.word.lease * DEAD
        });
        dead.map(|(name, heard)| (name.as_str(), heard.word.version.as_str()))
    }

    fn age(&self, heard: &Heard) -> Duration {
        self.latest.since(heard.since)
    }
}

#[cfg(test)]
mod tests;
