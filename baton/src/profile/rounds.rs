//! Which requests a measurement makes, so that steps of all sizes come about.

/// The longest prompt, if the model and the nodes' pools take it.
const LONGEST: u32 = 8192;
/// Of the smaller pool, what a round may fill.
const POOL_SHARE: u32 = 2;
/// Tokens of the shortest prompt, and those that begin no other one.
const SHORT: u32 = 16;
/// Tokens behind a prompt that is cached: few, so that the pages' way can be longer than the step,
/// but not one alone, which a node computes as it decodes.
const BEHIND: u32 = 8;
/// Of an output that is decoded in a batch.
const OUTPUT: u32 = 24;
/// Prompts that are to be computed in the same step.
const TOGETHER: usize = 4;
/// What lengths are multiplied with in one pass and the next, so that each pass has others.
const STRETCH: [f64; 4] = [1.0, 1.41, 1.19, 1.68];

/// What the nodes can take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    /// Of a sequence, in tokens.
    pub(super) max_context: u32,
    /// Of the smaller pool, in tokens.
    pub(super) pool_tokens: u32,
    /// The most sequences of a batch.
    pub(super) max_running: u32,
}

/// A part of a prompt: prompts that begin with the same parts begin with the same tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) content: u64,
    pub(super) tokens: u32,
}

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Ask {
    pub(super) prompt: Vec<Part>,
    pub(super) output: u32,
}

/// Requests that are made at the same time.
pub(super) type Round = Vec<Ask>;

/// Rounds one after the other, of which the later ones find in the caches what the earlier ones left.
pub(super) type Series = Vec<Round>;

/// How much a series is, roughly: a token that is decoded takes as long as some of a prompt, and of a
/// prompt in several parts the last alone isn't cached.
pub(super) fn work(series: &Series) -> u32 {
    let new = |ask: &Ask| ask.prompt.last().map_or(0, |part| part.tokens);
    series.iter().flatten().map(|ask| new(ask) + 8 * ask.output).sum()
}

/// Passes over all sizes, each from the small ones to the large ones.
#[derive(Clone, Debug)]
pub(super) struct Rounds {
    bounds: Bounds,
    contents: u64,
}

impl Rounds {
    /// `first` makes the contents, and with it the prompts, other ones than an earlier measurement's.
    pub(super) fn new(bounds: Bounds, first: u64) -> Self {
        Rounds { bounds, contents: first }
    }

    /// Something of everything, so that nothing is done for the first time later.
    pub(super) fn warm_up(&mut self) -> Vec<Round> {
        let longest = self.longest().min(16 * SHORT);
        vec![vec![self.ask(longest, OUTPUT)], (0..2).map(|_| self.ask(SHORT, OUTPUT)).collect()]
    }

    /// The `number`th pass: prompts of each length, once new and once cached with a few tokens behind;
    /// and between them batches of each size that decode.
    pub(super) fn pass(&mut self, number: usize) -> Vec<Series> {
        let stretch = STRETCH[number % STRETCH.len()];
        let mut prompts = Vec::new();
        for length in doublings(SHORT, self.longest()) {
            let stretched = (f64::from(length) * stretch) as u32;
            prompts.push(self.prompt(stretched.min(self.longest())));
        }
        for length in [2 * SHORT, 8 * SHORT].map(|length| length.min(self.longest())) {
            prompts.push(vec![(0..TOGETHER).map(|_| self.ask(length, 1)).collect()]);
        }
        let sizes = doublings(1, self.bounds.max_running.min(64));
        let batches: Vec<_> = sizes.enumerate().map(|(at, b)| self.batch(b, at + number)).collect();
        interleave(prompts, batches)
    }

    /// A new prompt alone; then the same with a few tokens behind, all of whose pages are pulled at once.
    fn prompt(&mut self, tokens: u32) -> Series {
        let (same, behind) = (self.part(tokens), self.part(BEHIND));
        let first = Ask { prompt: vec![same], output: 1 };
        let again = Ask { prompt: vec![same, behind], output: 2 };
        vec![vec![first], vec![again]]
    }

    /// `size` sequences that decode together behind a beginning all have in common, as long as the
    /// `variant` says and the pool allows.
    fn batch(&mut self, size: u32, variant: usize) -> Series {
        let longest = self.longest();
        let own = size * (SHORT + OUTPUT + BEHIND);
        let room = (self.bounds.pool_tokens / POOL_SHARE).saturating_sub(own);
        let common = [SHORT, longest / 8, longest / 2][variant % 3].min(room) / SHORT * SHORT;
        let common = self.part(common);
        let before = Ask { prompt: vec![common], output: 2 };
        let own = |rounds: &mut Rounds| vec![common, rounds.part(SHORT)];
        let batch = (0..size).map(|_| Ask { prompt: own(self), output: OUTPUT }).collect();
        vec![vec![before], batch]
    }

    fn longest(&self) -> u32 {
        let Bounds { max_context, pool_tokens, .. } = self.bounds;
        LONGEST.min(pool_tokens / (2 * POOL_SHARE)).min(max_context.saturating_sub(4 * OUTPUT))
    }

    fn ask(&mut self, tokens: u32, output: u32) -> Ask {
        Ask { prompt: vec![self.part(tokens)], output }
    }

    fn part(&mut self, tokens: u32) -> Part {
        self.contents = self.contents.wrapping_add(1);
        Part { content: self.contents, tokens }
    }
}

impl Bounds {
    /// Whether there is room for the smallest measurement.
    pub(super) fn are_enough(&self) -> bool {
        Rounds::new(*self, 0).longest() >= 4 * SHORT
    }
}

fn doublings(from: u32, to: u32) -> impl Iterator<Item = u32> {
    std::iter::successors(Some(from), |length| length.checked_mul(2))
        .take_while(move |length| *length <= to)
}

/// One of each by turns, and then what is left of the longer.
fn interleave(a: Vec<Series>, b: Vec<Series>) -> Vec<Series> {
    let (mut a, mut b) = (a.into_iter(), b.into_iter());
    let mut all = Vec::new();
    loop {
        match (a.next(), b.next()) {
            (None, None) => return all,
            (one, other) => all.extend(one.into_iter().chain(other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    fn tokens(ask: &Ask) -> u32 {
        ask.prompt.iter().map(|part| part.tokens).sum()
    }

    const BOUNDS: Bounds = Bounds { max_context: 2048, pool_tokens: 9000, max_running: 16 };

    #[test]
    fn every_pass_has_prompts_and_batches_of_all_sizes_that_fit() {
        for bounds in [
            BOUNDS,
            Bounds { max_context: 200, ..BOUNDS },
            Bounds { pool_tokens: 900, ..BOUNDS },
            Bounds { max_context: 1 << 20, pool_tokens: 1 << 24, max_running: 1000 },
        ] {
            let mut rounds = Rounds::new(bounds, 0);
            let longest = rounds.longest();
            for number in 0..5 {
                let pass: Vec<Round> = rounds.pass(number).concat();
                for round in &pass {
                    let parts: BTreeMap<u64, u32> = round
                        .iter()
                        .flat_map(|ask| ask.prompt.iter().map(|part| (part.content, part.tokens)))
                        .collect();
                    let outputs: u32 = round.iter().map(|ask| ask.output).sum();
                    let held = parts.values().sum::<u32>() + outputs;
                    assert!(held <= bounds.pool_tokens, "{held} of {bounds:?}: {round:?}");
                    for ask in round {
                        let all = tokens(ask) + ask.output;
                        assert!(all <= bounds.max_context, "{ask:?} {bounds:?}");
                    }
                }
                let alone: Vec<u32> = pass
                    .iter()
                    .filter(|round| round.len() == 1 && round[0].output == 1)
                    .map(|round| tokens(&round[0]))
                    .collect();
                assert!(alone[0] < 2 * SHORT && *alone.last().unwrap() > longest / 2, "{alone:?}");
                let largest = pass.iter().map(Vec::len).max().unwrap() as u32;
                assert!(2 * largest > bounds.max_running.min(64), "{largest} of {bounds:?}");
            }
        }
    }

    #[test]
    fn no_prompt_is_made_twice_but_to_be_cached() {
        let mut rounds = Rounds::new(BOUNDS, 7);
        let mut seen = BTreeSet::new();
        for number in 0..4 {
            for ask in rounds.pass(number).iter().flatten().flatten() {
                assert!(seen.insert(ask.prompt.last().unwrap().content), "{ask:?}");
            }
        }
    }

    #[test]
    fn what_is_too_small_is_told() {
        assert!(BOUNDS.are_enough());
        assert!(!Bounds { max_context: 100, ..BOUNDS }.are_enough());
        assert!(!Bounds { pool_tokens: 200, ..BOUNDS }.are_enough());
    }
}
