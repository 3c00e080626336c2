//! What was said, kept to be compared with what ought to have been.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use serde::{Deserialize, Serialize};

use crate::{heard::Said, outcome::Outcome};

/// Answers by their request. Unlike all else, its room grows with their number.
#[derive(Debug, Default)]
pub(crate) struct Transcript(Mutex<HashMap<(u64, u32), Kept>>);

#[derive(Clone, Debug)]
struct Kept {
    said: Said,
    is_complete: bool,
}

/// Answers beside their references.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Answers that both have.
    pub compared: u64,
    pub exact: u64,
    /// Answers that lack tokens they ought to have, in the middle or at their end,
    pub lost: u64,
    /// that have tokens twice,
    pub doubled: u64,
    /// and that differ in another way.
    pub wrong: u64,
    /// Some of those: their numbers, and what is off.
    pub examples: Vec<String>,
}

/// So many are told.
const EXAMPLES: usize = 10;

/// What is wrong with an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Lost(usize),
    Doubled(usize),
    Wrong,
}

impl Transcript {
    pub(super) fn hear(&self, outcome: &Outcome, said: &Said) {
        let kept = Kept { said: said.clone(), is_complete: outcome.is_completed() };
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert((outcome.number, outcome.turn), kept);
    }

    /// What is off, if the reference is right. Answers that ended with an error may be short, but nothing else.
    pub(crate) fn compare(&self, reference: &Transcript) -> Verdict {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let reference = reference.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut verdict = Verdict::default();
        let mut keys: Vec<_> = all.keys().copied().collect();
        keys.sort_unstable();
        for key in keys {
            let (kept, Some(right)) =
                (&all[&key], reference.get(&key).filter(|right| right.is_complete))
            else {
                continue;
            };
            verdict.compared += 1;
            let Some((at, fault)) = kept.fault(right) else {
                verdict.exact += 1;
                continue;
            };
            let told = match fault {
                Fault::Lost(tokens) => {
                    verdict.lost += 1;
                    format!("lacks {tokens}")
                }
                Fault::Doubled(tokens) => {
                    verdict.doubled += 1;
                    format!("has {tokens} twice")
                }
                Fault::Wrong => {
                    verdict.wrong += 1;
                    "differs".to_owned()
                }
            };
            if verdict.examples.len() < EXAMPLES {
                verdict.examples.push(format!("request {}.{} {told} from {at} on", key.0, key.1));
            }
        }
        verdict
    }
}

impl Kept {
    fn fault(&self, right: &Kept) -> Option<(usize, Fault)> {
        let (said, right) = (&self.said, &right.said);
        match said.tokens.is_empty() && right.tokens.is_empty() {
            false => fault(&said.tokens, &right.tokens, self.is_complete),
            true => {
                let chars = |text: &str| text.chars().collect::<Vec<_>>();
                fault(&chars(&said.text), &chars(&right.text), self.is_complete)
            }
        }
    }
}

/// The first thing that is off, and where.
fn fault<T: PartialEq>(said: &[T], right: &[T], is_complete: bool) -> Option<(usize, Fault)> {
    let at = said.iter().zip(right).take_while(|(said, right)| said == right).count();
    if at == said.len() {
        let missing = right.len() - at;
        return (missing > 0 && is_complete).then_some((at, Fault::Lost(missing)));
    }
    let rest = &said[at..];
    // Behind the gap, or the repeat, it goes on as it should; an answer that broke off may be short.
    let goes_on = |expected: &[T]| match is_complete {
        true => rest == expected,
        false => expected.starts_with(rest),
    };
    let doubled = (1..=at).find(|back| goes_on(&right[at - back..]));
    let lost = (1..=right.len() - at).find(|ahead| goes_on(&right[at + ahead..]));
    Some(match (doubled, lost) {
        (Some(tokens), _) => (at, Fault::Doubled(tokens)),
        (None, Some(tokens)) => (at, Fault::Lost(tokens)),
        (None, None) => (at, Fault::Wrong),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_told_apart() {
        let right: Vec<u32> = (0..10).collect();
        let check = |said: &[u32], is_complete, expected| {
            assert_eq!(fault(said, &right, is_complete), expected, "{said:?}")
        };
        check(&right, true, None);
        check(&right[..4], true, Some((4, Fault::Lost(6))));
        check(&right[..4], false, None);
        check(&[0, 1, 2, 5, 6, 7, 8, 9], true, Some((3, Fault::Lost(2))));
        check(&[0, 1, 2, 5, 6], false, Some((3, Fault::Lost(2))));
        check(&[0, 1, 2, 1, 2, 3, 4, 5, 6, 7, 8, 9], true, Some((3, Fault::Doubled(2))));
        check(&[0, 1, 2, 77, 4, 5, 6, 7, 8, 9], true, Some((3, Fault::Wrong)));
        check(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 9], true, Some((10, Fault::Doubled(1))));
        check(&[0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10], true, Some((10, Fault::Wrong)));
    }
}
