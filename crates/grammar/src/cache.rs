use std::collections::VecDeque;

use baton_types::Grammar;

use crate::Compiled;

/// The most grammars kept,
const MAX_GRAMMARS: usize = 32;
/// and the most bytes of their sources: what is made of one is a few times as large.
const MAX_BYTES: usize = 1 << 20;

/// The grammars that were compiled last, for the next sequences that have them.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    /// The one used last is the last.
    entries: VecDeque<(Grammar, Compiled)>,
    bytes: usize,
}

impl Cache {
    pub(crate) fn copy(&mut self, grammar: &Grammar) -> Option<Compiled> {
        let at = self.entries.iter().position(|(known, _)| known == grammar)?;
        let entry = self.entries.remove(at)?;
        let copy = entry.1.copy();
        self.entries.push_back(entry);
        Some(copy)
    }

    /// Keeps `compiled`, which no sequence has used, and forgets what is too much then.
    pub(crate) fn keep(&mut self, grammar: &Grammar, compiled: Compiled) {
        if bytes(grammar) > MAX_BYTES || self.entries.iter().any(|(known, _)| known == grammar) {
            return;
        }
        self.bytes += bytes(grammar);
        self.entries.push_back((grammar.clone(), compiled));
        while self.entries.len() > MAX_GRAMMARS || self.bytes > MAX_BYTES {
            let Some((forgotten, _)) = self.entries.pop_front() else { return };
            self.bytes -= bytes(&forgotten);
        }
    }
}

fn bytes(grammar: &Grammar) -> usize {
    grammar.sources().iter().map(|source| source.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn regex(source: String) -> Grammar {
        Grammar::Regex(source.into())
    }

    fn keep(cache: &mut Cache, grammar: &Grammar) {
        cache.keep(grammar, Compiled::new(Vec::new()));
    }

    #[test]
    fn those_used_last_are_kept() {
        let mut cache = Cache::default();
        let grammars: Vec<Grammar> = (0..=MAX_GRAMMARS).map(|n| regex(n.to_string())).collect();
        for grammar in &grammars[..MAX_GRAMMARS] {
            keep(&mut cache, grammar);
            keep(&mut cache, grammar);
        }
        assert!(cache.copy(&grammars[0]).is_some());
        keep(&mut cache, &grammars[MAX_GRAMMARS]);
        assert!(cache.copy(&grammars[0]).is_some(), "used after it was kept");
        assert!(cache.copy(&grammars[1]).is_none(), "the one used longest ago");
        assert!(cache.copy(&grammars[MAX_GRAMMARS]).is_some());
    }

    #[test]
    fn long_ones_push_out_many() {
        let mut cache = Cache::default();
        let long = |letter: &str| regex(letter.repeat(MAX_BYTES / 2));
        for letter in ["a", "b"] {
            keep(&mut cache, &long(letter));
        }
        assert!(cache.copy(&long("a")).is_some() && cache.copy(&long("b")).is_some());
        keep(&mut cache, &regex("c".to_owned()));
        assert!(cache.copy(&long("a")).is_none() && cache.copy(&long("b")).is_some());
        keep(&mut cache, &regex("d".repeat(MAX_BYTES + 1)));
        assert!(cache.copy(&long("b")).is_some(), "one that is too long pushes out none");
    }
}
