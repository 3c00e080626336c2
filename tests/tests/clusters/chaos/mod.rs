//! Whoever ends, stops or is cut off, whenever it does: clients that go on have every token once, and nothing is left of
//! any request (`exact-stream`, `same-tokens`, `no-leak`, `no-lost-request`, `heals`).

mod cancels;
mod kills;
mod partition;
mod stages;

use std::time::{Duration, Instant};

use baton_tests::{Answer, Apart, Ask, Generated, Reader, Reference};
use baton_types::{SamplingSpec, TokenId};

/// For what is to happen; others may use the cores.
const PATIENCE: Duration = Duration::from_secs(30);

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A prompt that begins like no other.
fn ask(variety: u32, prompt: u32, max_tokens: u32) -> Ask {
    let beginning = [variety % 90, variety / 90 % 90, variety / 8100 % 90];
    let rest = (3..prompt).map(|at| (at * 7 + at / 13 + variety) % 90);
    Ask {
        prompt: beginning.into_iter().chain(rest).map(|id| TokenId(33 + id)).collect(),
        max_tokens,
        sampling: SamplingSpec::seeded(0.8, 1000 + u64::from(variety)),
    }
}

/// The simulated engine draws printable bytes, a token each.
fn text(generated: &Generated) -> String {
    generated.tokens.iter().map(|token| char::from(token.0 as u8)).collect()
}

fn check(reference: &mut Reference, ask: &Ask, answer: &Answer) {
    let expected = text(&reference.generate(ask).unwrap());
    assert_eq!(answer.text, expected, "{:?}", ask.sampling);
}

/// Clients that leave a router which says nothing for as long as no sound one would.
fn reader(cluster: &Apart) -> Reader {
    Reader { urls: cluster.urls(), silence: Duration::from_millis(1500) }
}
