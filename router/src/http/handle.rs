//! What a stream's event ids say, so that any router can go on where its client was.
//!
//! An answer is a function of the request's body and of its seed: `same-tokens`. So a router that never heard of a
//! stream makes it again, and leaves out what its client has. `ID-SEED CREATED BODY TAKE:NUMBER:SEEN`: the answer's id;
//! its seed, its time, a digest of the body and which time it is made, in hexadecimal; the event's number; and of each
//! choice the tokens that its events were made of until then.

use std::fmt::Write;

use baton_types::{RequestId, SamplingSpec};
use rand::Rng;
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use crate::{
    error::RequestError,
    metrics::TokensFrom,
    request::{Ask, Before},
    router::Router,
};

/// Streams of more choices are taken up by their own router alone.
const MOST_CHOICES: usize = 8;
/// A choice's last event was sent, and that with the usage.
const CLOSED: u32 = 1 << 31;
const COUNTED: u32 = 1 << 30;

/// What makes a stream what it is, but for the body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) id: RequestId,
    pub(super) seed: u64,
    /// Seconds since 1970.
    pub(super) created: u32,
    /// Of the body.
    pub(super) digest: u32,
}

/// Which time it is that a stream is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Take(u32);

impl Take {
    pub(super) const FIRST: Take = Take(0);

    fn again() -> Self {
        Take(rand::rng().random_range(1..=u32::MAX))
    }
}

/// How far a client is with a choice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen(u32);

impl Seen {
    /// Its events were made of so many tokens.
    pub(super) fn tokens(self) -> u32 {
        self.0 & !(CLOSED | COUNTED)
    }

    pub(super) fn advance(&mut self, tokens: u32) {
        self.0 = (self.0 & (CLOSED | COUNTED)) | tokens.min(COUNTED - 1);
    }

    pub(super) fn is_closed(self) -> bool {
        self.0 & CLOSED != 0
    }

    pub(super) fn close(&mut self) {
        self.0 |= CLOSED;
    }

    /// Whether the usage was told; of the first choice.
    pub(super) fn is_counted(self) -> bool {
        self.0 & COUNTED != 0
    }

    pub(super) fn count(&mut self) {
        self.0 |= COUNTED;
    }
}

/// A stream that its client wants to have from some event on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct TakenUp {
    pub(super) origin: Origin,
    /// The one that broke off.
    pub(super) take: Take,
    /// Events that the client has.
    pub(super) number: u64,
    /// What of each choice.
    pub(super) seen: Vec<Seen>,
}

impl Origin {
    pub(super) fn digest(body: &[u8]) -> u32 {
        xxh3_64(body) as u32
    }

    /// The name of a stream whose answer's id is this. Each time that it is made it has other events, so it has
    /// another name.
    pub(super) fn name(&self, id: &str, take: Take) -> String {
        let Take(take) = take;
        format!("{id}-{:016x}{:08x}{:08x}{take:08x}", self.seed, self.created, self.digest)
    }

    /// The id that nodes know it by when it is made for this time.
    pub(super) fn made_as(&self, take: Take) -> RequestId {
        match take {
            Take::FIRST => self.id,
            Take(take) => RequestId(xxh3_128_with_seed(&self.id.0.to_le_bytes(), take.into())),
        }
    }

    /// From the name of a stream whose answers' ids begin like this.
    fn parse(name: &str, prefix: &str) -> Option<(Origin, Take)> {
        let (id, rest) = name.strip_prefix(prefix)?.split_once('-')?;
        let is_hex =
            |text: &str| text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        if id.len() != 32 || rest.len() != 40 || !is_hex(id) || !is_hex(rest) {
            return None;
        }
        let part = |from: usize, to: usize| u64::from_str_radix(&rest[from..to], 16).ok();
        let small = |from: usize| u32::try_from(part(from, from + 8)?).ok();
        let origin = Origin {
            id: RequestId(u128::from_str_radix(id, 16).ok()?),
            seed: part(0, 16)?,
            created: small(16)?,
            digest: small(24)?,
        };
        Some((origin, Take(small(32)?)))
    }
}

impl TakenUp {
    /// What is asked for, to be made this time. Looks for what nodes have kept of it, so that it needn't be made again;
    /// what was told beside its tokens isn't kept.
    pub(super) async fn again(
        &self,
        router: &Router,
        ask: Ask,
        is_streamed: bool,
    ) -> Result<(Ask, Take), RequestError> {
        let mut ask = self.ask(ask, is_streamed)?;
        let take = Take::again();
        ask.caller.id = self.origin.made_as(take);
        let SamplingSpec { logprobs, prompt_logprobs, .. } = &ask.sampling;
        let mut tokens = 0;
        if logprobs.is_none() && prompt_logprobs.is_none() {
            let (before, tenant) = (self.origin.made_as(self.take), ask.caller.tenant.clone()?);
            for nth in 0..ask.prompts.len() {
                let id = RequestId(before.0.wrapping_add(nth as u128));
                for (choice, known) in router.recall(&ask.model, id, &tenant).await {
                    let slot = nth * ask.choices as usize + usize::from(choice.0);
                    if let Some(before) = ask.before.get_mut(slot) {
                        tokens += known.len();
                        before.known = known;
                    }
                }
            }
        }
        tracing::info!(stream = %self.origin.id, tokens, "goes on with a stream of another router");
        let from = if tokens > 0 { TokensFrom::nodes } else { TokensFrom::nobody };
        router.metrics.took_up(from);
        Ok((ask, take))
    }

    /// What is asked for, as it was asked for first.
    fn ask(&self, ask: Ask, is_streamed: bool) -> Result<Ask, RequestError> {
        let choices = ask.prompts.len() * ask.choices as usize;
        if !is_streamed || choices != self.seen.len() {
            return Err(RequestError::StreamGone { last: format!("{:032x}", self.origin.id.0) });
        }
        let sampling = SamplingSpec { seed: self.origin.seed, ..ask.sampling };
        let before = |seen: &Seen| Before { had: seen.tokens(), ..Before::default() };
        Ok(Ask { sampling, before: self.seen.iter().map(before).collect(), ..ask })
    }

    /// What `last`, an event's id, says of a stream whose answers' ids begin like this.
    pub(super) fn parse(last: &str, prefix: &str) -> Option<TakenUp> {
        let mut parts = last.splitn(3, ':');
        let (origin, take) = Origin::parse(parts.next()?, prefix)?;
        // Nobody has seen more.
        let number = parts.next()?.parse::<u32>().ok()?.into();
        let seen =
            parts.next()?.split(',').map(|seen| u32::from_str_radix(seen, 16).ok().map(Seen));
        let seen: Vec<Seen> = seen.take(MOST_CHOICES + 1).collect::<Option<_>>()?;
        (seen.len() <= MOST_CHOICES).then_some(TakenUp { origin, take, number, seen })
    }
}

/// The end of an event's id; nothing if there are too many choices.
pub(super) fn progress(seen: &[Seen]) -> Box<str> {
    let mut text = String::new();
    if seen.len() <= MOST_CHOICES {
        for (at, seen) in seen.iter().enumerate() {
            let before = if at == 0 { ':' } else { ',' };
            // It is written to memory.
            let _ = write!(text, "{before}{:x}", seen.0);
        }
    }
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_say_how_far_a_client_is() {
        let origin = Origin { id: RequestId(77), seed: u64::MAX, created: 5, digest: 9 };
        let mut seen = vec![Seen::default(); 2];
        seen[0].advance(12);
        seen[0].close();
        seen[0].count();
        seen[1].advance(3);
        assert!(seen[0].is_closed() && seen[0].is_counted() && !seen[1].is_closed());
        assert_eq!((seen[0].tokens(), seen[1].tokens()), (12, 3));
        let take = Take(3);
        let name = origin.name(&format!("cmpl-{:032x}", 77), take);
        let made = [Take::FIRST, take, Take(4)].map(|take| origin.made_as(take).0);
        assert!(made[0] == 77 && made[1] != 77 && made[1] != made[2], "{made:?}");
        let id = format!("{name}:40{}", progress(&seen));
        assert_eq!(TakenUp::parse(&id, "cmpl-"), Some(TakenUp { origin, take, number: 40, seen }));
        for wrong in
            [&id[1..], &id[..40], "", ":", "cmpl-:1:2", &format!("{id},x"), &format!("{name}:40")]
        {
            assert_eq!(TakenUp::parse(wrong, "cmpl-"), None, "{wrong}");
        }
        assert_eq!(TakenUp::parse(&id, "chatcmpl-"), None, "another endpoint's");
        let endless = format!("{name}:{}:0", u64::MAX);
        assert_eq!(TakenUp::parse(&endless, "cmpl-"), None, "it would count over");
        assert_eq!(&*progress(&[Seen::default(); 9]), "", "too many to go along");
    }
}
