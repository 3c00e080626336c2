//! A request's life: placed, attempted, tried again while that helps, and ended.
//!
//! **Invariant** (`no-lost-request`): it ends in bounded time, with its tokens or a typed error. The
//! deadline bounds everything, the number of attempts is bounded, and dropping the answer ends it
//! at any point: the streams to the nodes and the place go with it.

mod migrate;

use std::{sync::Arc, time::Duration};

use baton_migration::{Arbiter, ArbiterConfig};
use baton_policy::TenantId;
use baton_proto::{convert::Sampled, v1};
use baton_types::{
    Capability, Epoch, FinishReason, NodeId, SequenceSpec, Slo, Time, TokenId, TokenLogprobs,
};
use rand::Rng;
use tokio::sync::mpsc;

use self::migrate::Moving;
use super::{
    Chunk, End, Said,
    admit::Admitted,
    attempt::{Attempt, Word},
    choices::Part,
    failure::{Failure, Kind},
    losses::Losses,
    merge::{Merge, MergeError, Taken},
    timing::Timing,
    tries::{Tries, pause},
};
use crate::{
    cluster::{Place, PlaceRequest},
    error::{Outcome, RequestError},
    ledger::Noted,
    metrics::Tally,
    router::Router,
};

pub(super) struct Run {
    router: Arc<Router>,
    request: Admitted,
    out: mpsc::Sender<Result<Said, RequestError>>,
    merge: Merge,
    /// Of who owns the sequence.
    arbiter: Arbiter,
    moves: Moving,
    attempts: u32,
    tries: Tries,
    /// Those that failed the last attempt.
    exclude: Vec<NodeId>,
    losses: Losses,
    timing: Timing,
    /// The first choice counts for all.
    tally: Option<Tally>,
    part: Part,
    /// To go out with the next chunk.
    prompt_logprobs: Vec<TokenLogprobs>,
    /// Tokens that were known when it began.
    behind: u32,
}

/// Why an attempt ended.
enum Cut {
    Failed(Failure),
    /// The client is gone.
    Hangup,
}

impl From<Failure> for Cut {
    fn from(failure: Failure) -> Self {
        Cut::Failed(failure)
    }
}

impl Run {
    pub(super) fn new(
        router: Arc<Router>,
        request: Admitted,
        part: Part,
        out: mpsc::Sender<Result<Said, RequestError>>,
    ) -> Self {
        let arbiter = Arbiter::new(ArbiterConfig::default(), router.id);
        let merge = Merge::new(arbiter.owner(), request.max_tokens);
        let moves = Moving::new(router.moves.enter(request.key));
        let timing = Timing::new(request.arrived);
        let tally = part.is_first().then(|| router.metrics.enter(&request.standing.name));
        let (exclude, losses) = (Vec::new(), Losses::new(&router.suspects, request.key));
        Run {
            router,
            request,
            out,
            merge,
            arbiter,
            moves,
            attempts: 0,
            tries: Tries::default(),
            exclude,
            losses,
            timing,
            tally,
            part,
            prompt_logprobs: Vec::new(),
            behind: 0,
        }
    }

    pub(super) async fn carry(mut self) {
        let (cancel, deadline) = (self.request.inside.cancel.clone(), self.request.deadline);
        let left = (self.request.arrived + deadline) - self.router.clock.now();
        let result = tokio::select! {
            biased;
            () = cancel.cancelled() => Err(self.request.inside.why_cancelled()),
            () = tokio::time::sleep(left) => Err(RequestError::Deadline { deadline }),
            result = async {
                self.part.turn().await;
                self.attempts().await
            } => result,
        };
        let said = self.conclude(result);
        // It is over before the client hears so: whoever asks next finds the room it left.
        let Run { request, out, tally, part, moves, .. } = self;
        drop((request, tally, part, moves));
        // A client that is gone doesn't need the end.
        let _ = out.send(said).await;
    }

    /// Counts and logs the end.
    fn conclude(
        &mut self,
        result: Result<FinishReason, RequestError>,
    ) -> Result<Said, RequestError> {
        let (prompt, output) = (self.request.prompt.len() as u32, self.merge.next_index());
        let made = output - self.behind;
        let outcome = result.as_ref().map_or_else(RequestError::outcome, |_| Outcome::ok);
        if let Some(tally) = &mut self.tally {
            let (ttft, tpot) = (self.timing.ttft(), self.timing.tpot(made));
            tally.ended(outcome, ttft, tpot);
            tally.objectives(self.request.standing.slo, ttft, tpot);
        }
        let timings = self.timing.timings(made);
        self.router.ledger.ended(self.request.key, &timings);
        tracing::info!(
            ?outcome,
            error = result.as_ref().err().map(tracing::field::display),
            prompt_tokens = prompt,
            output_tokens = output,
            attempts = self.attempts,
            ttft_us = timings.ttft_us,
            tpot_us = timings.tpot_us,
            prefill = timings.prefill_node,
            decode = timings.decode_node,
            "request ended"
        );
        let usage = v1::Usage {
            prompt_tokens: prompt,
            completion_tokens: output,
            cached_tokens: self.timing.cached_tokens().min(prompt),
        };
        let (place, choice) = (self.request.place, self.request.key.choice);
        let called = self.request.calls.as_ref().is_some_and(|calls| calls.calls() > 0);
        let prompt = place.index;
        let end = |reason| Said::End(End { prompt, choice, reason, called, usage, timings });
        result.map(end).map_err(|error| place.blame(error))
    }

    /// Attempts until one reaches the sequence's end.
    async fn attempts(&mut self) -> Result<FinishReason, RequestError> {
        if let Some(reason) = self.begin_behind().await? {
            return Ok(reason);
        }
        loop {
            let since = self.router.clock.now();
            let place = self.place().await?;
            let failure = match self.attempt(place, since).await {
                Ok(reason) => return Ok(reason),
                Err(Cut::Hangup) => {
                    return Err(RequestError::Cancelled { id: self.request.id() });
                }
                Err(Cut::Failed(failure)) => failure,
            };
            self.recover(failure).await?;
        }
    }

    /// Shows what is known of the sequence before anything is computed. Says how it ended, if it did.
    async fn begin_behind(&mut self) -> Result<Option<FinishReason>, RequestError> {
        self.merge.begin_with(std::mem::take(&mut self.request.before.known));
        while self.merge.has_next() {
            let (chunk, end) = self.gather();
            self.part.lead();
            let sent = self.out.send(Ok(Said::Chunk(chunk))).await;
            sent.map_err(|_closed| RequestError::Cancelled { id: self.request.id() })?;
            self.behind = self.merge.next_index();
            if end.is_some() {
                return Ok(end);
            }
        }
        Ok(None)
    }

    async fn place(&mut self) -> Result<Place, RequestError> {
        let exclude = std::mem::take(&mut self.exclude);
        let tokens = self.tokens();
        let request = PlaceRequest { exclude, ..self.place_request(&tokens) };
        self.router.cluster.place(&request).await.map_err(RequestError::Policy)
    }

    /// What a place is needed for now.
    fn place_request<'a>(&'a self, tokens: &'a [TokenId]) -> PlaceRequest<'a> {
        PlaceRequest {
            model: &self.request.model,
            tokens,
            max_new_tokens: self.request.max_tokens - self.merge.next_index(),
            cache_salt: 0,
            standing: &self.request.standing,
            arrived: self.request.arrived,
            slo: if self.merge.next_index() > 0 {
                Slo { ttft: None, ..self.request.standing.slo }
            } else {
                self.request.standing.slo
            },
            follows: !self.request.is_first(),
            exclude: Vec::new(),
            has_begun: self.attempts > 0 || self.merge.next_index() > 0,
            next_due: self.timing.next_due(self.merge.next_index(), self.request.standing.slo.tpot),
            may_be_local: self.request.sampling.prompt_logprobs.is_none(),
        }
    }

    /// One attempt, to the sequence's end or its own, in a place it waited for `since`.
    async fn attempt(&mut self, place: Place, since: Time) -> Result<FinishReason, Cut> {
        let mut place = place;
        if self.attempts > 0 || self.merge.next_index() > 0 {
            self.moves.abandon();
            let epoch = self.arbiter.draw();
            self.merge.grant(epoch);
        }
        self.attempts += 1;
        let begins = self.merge.next_index();
        let capability = Capability(rand::rng().random());
        let mut attempt = Attempt::start(
            &place,
            &self.spec(&place),
            capability,
            self.tenant(),
            self.request.trace,
        );
        let now = self.router.clock.now();
        self.timing.placed(now, &attempt.pair);
        self.router.ledger.note(Noted {
            key: self.request.key,
            attempt: self.attempts,
            waited: now - since,
            standing: &self.request.standing,
            placement: &place.placement,
            moved_from: None,
        });
        tracing::debug!(
            epoch = %attempt.epoch,
            prefill = attempt.pair.prefill.as_ref().map(tracing::field::display),
            decode = attempt.pair.decode.as_ref().map(tracing::field::display),
            reasons = ?place.placement.reasons, "placed"
        );
        self.moves.is_at(&place);
        loop {
            let happened = self.happen(&mut attempt, &mut place).await;
            if let Err(Cut::Failed(failure)) = &happened
                && failure.kind.may_be_a_death()
            {
                for way in failure.ways(&attempt.pair) {
                    self.router.cluster.failed(way);
                }
                self.losses.add(attempt.called(&failure.nodes), self.merge.next_index());
            }
            happened?;
            loop {
                if let Some(reason) = self.forward(&mut attempt, &mut place).await? {
                    place.finished(self.merge.next_index() - begins);
                    return Ok(reason);
                }
                if !self.merge.has_next() {
                    break;
                }
            }
            if attempt.is_over() && !self.moves.is_moving() {
                self.merge.close().map_err(|error| Failure::protocol(&attempt.pair, &error))?;
            }
        }
    }

    /// Takes in what a node said of tokens made under `epoch`.
    fn take(&mut self, word: Word, epoch: Epoch, place: &Place) -> Result<(), MergeError> {
        match word {
            Word::First { token, mut first, finish } => {
                place.first_token();
                self.timing.prefilled(&first);
                let told = std::mem::take(&mut first.prompt_logprobs);
                self.prompt_logprobs = told.into_iter().map(TokenLogprobs::from).collect();
                // Other attempts needn't tell them again.
                self.request.sampling.prompt_logprobs = None;
                self.accept(epoch, token)?;
                if let Some(reason) = finish {
                    self.merge.finish(epoch, reason);
                }
            }
            Word::HandedOver => place.handed_over(),
            Word::Joined(joined) if place.is_local() => self.timing.begun(&joined),
            Word::Joined(joined) => {
                place.joined(joined.bytes, Duration::from_micros(joined.exposed_transfer_us));
                self.timing.joined(&joined);
            }
            Word::Tokens { tokens, step_us } => {
                place.first_token();
                self.timing.stepped(step_us);
                tokens.into_iter().try_for_each(|token| self.accept(epoch, token))?;
            }
            Word::Finished(reason) => self.merge.finish(epoch, reason),
            // Who migrates hears of it.
            Word::Frozen { .. } => {}
        }
        Ok(())
    }

    fn accept(&mut self, epoch: Epoch, token: Sampled) -> Result<(), MergeError> {
        let index = token.index;
        let taken = self.merge.accept(epoch, token)?;
        if taken != Taken::New {
            tracing::debug!(index, ?taken, "dropped a token");
        }
        Ok(())
    }

    /// Sends on whatever has its turn. Says how the sequence ended, if it did.
    async fn forward(
        &mut self,
        attempt: &mut Attempt,
        place: &mut Place,
    ) -> Result<Option<FinishReason>, Cut> {
        let (chunk, end) = self.gather();
        if chunk.tokens.is_empty() && chunk.text.is_empty() && chunk.calls.is_empty() {
            return Ok(end);
        }
        self.losses.passed(self.merge.next_index());
        self.tries.progressed(self.merge.next_index());
        self.timing.leaving(self.router.clock.now());
        self.part.lead();
        self.tell(Ok(Said::Chunk(chunk)), attempt, place).await?;
        Ok(end)
    }

    /// Whatever has its turn; and how the sequence ended, if it did.
    fn gather(&mut self) -> (Chunk, Option<FinishReason>) {
        let (prompt, choice) = (self.request.place.index, self.request.key.choice);
        let mut chunk = Chunk::new(prompt, choice, self.merge.next_index());
        chunk.prompt_logprobs = std::mem::take(&mut self.prompt_logprobs);
        let mut end = None;
        while let Some(sampled) = self.merge.release() {
            end = self.show(sampled.token, &mut chunk.text);
            chunk.tokens.push(sampled);
            // What its client has is told apart from what it hasn't.
            if end.is_some() || self.merge.next_index() == self.request.before.had {
                break;
            }
        }
        if let (None, Some(reason)) = (end, self.merge.ended()) {
            end = Some(self.finish(reason, &mut chunk.text));
        }
        self.split_calls(&mut chunk, end.is_some());
        (chunk, end)
    }
}

impl Run {
    /// Adds a token's text. Says how the sequence ended, if it did with this token.
    fn show(&mut self, token: TokenId, text: &mut String) -> Option<FinishReason> {
        if self.request.stop_tokens.contains(token) {
            return Some(self.finish(FinishReason::Stop, text));
        }
        let shown = self.request.output.push(token);
        text.push_str(&shown.text);
        if shown.stopped {
            return Some(FinishReason::Stop);
        }
        let is_full = self.merge.next_index() >= self.request.max_tokens;
        is_full.then(|| self.finish(FinishReason::Length, text))
    }

    /// Parts the text from the calls of tools in it.
    fn split_calls(&mut self, chunk: &mut Chunk, is_last: bool) {
        let Some(calls) = &mut self.request.calls else { return };
        let split = calls.push(&chunk.text);
        (chunk.text, chunk.calls) = (split.text, split.calls);
        if is_last {
            let rest = calls.finish();
            chunk.text.push_str(&rest.text);
            chunk.calls.extend(rest.calls);
        }
    }

    /// Adds what was held back. A stop string may show in it.
    fn finish(&mut self, reason: FinishReason, text: &mut String) -> FinishReason {
        let rest = self.request.output.finish();
        text.push_str(&rest.text);
        if rest.stopped { FinishReason::Stop } else { reason }
    }

    /// Prepares another attempt, or says why there is none.
    async fn recover(&mut self, failure: Failure) -> Result<(), RequestError> {
        let Failure { kind, nodes, message } = failure;
        // What is wrong with a request may quote it.
        let error = (kind != Kind::Request).then_some(&message);
        tracing::info!(
            epoch = %self.arbiter.owner(), emitted = self.merge.next_index(), reason = kind.label(),
            error, "attempt failed"
        );
        let last = message;
        match kind {
            Kind::Request => return Err(RequestError::RefusedByNode { message: last }),
            Kind::Deadline => {
                return Err(RequestError::Deadline { deadline: self.request.deadline });
            }
            Kind::Unreachable => nodes.iter().for_each(|node| self.router.cluster.suspect(node)),
            Kind::Moved => {
                self.exclude = nodes;
                return Ok(());
            }
            Kind::Full { .. } | Kind::Node | Kind::HandOver => {}
        }
        self.losses.judge(self.router.config.limits.max_lost_nodes).await?;
        let found_no_room = matches!(kind, Kind::Full { .. });
        let in_vain = self.tries.in_vain(found_no_room, self.merge.next_index());
        if in_vain > self.router.config.limits.max_retries {
            return Err(match kind {
                Kind::Full { retry_after } => RequestError::NodesFull { last, retry_after },
                _ => RequestError::Failed { attempts: self.attempts, last },
            });
        }
        self.exclude = nodes;
        if in_vain > 1 {
            self.wait_for_retry().await;
        }
        self.router.metrics.retried(kind.label());
        if let Some(pause) = pause(in_vain) {
            tokio::time::sleep(pause).await;
        }
        Ok(())
    }

    /// The first retry is everybody's right, further ones are all requests' together.
    async fn wait_for_retry(&mut self) {
        let tpot = self.request.standing.slo.tpot;
        let due = self.timing.next_due(self.merge.next_index(), tpot);
        let due = due.unwrap_or(self.request.arrived);
        if self.router.retries.turn(due, &self.router.clock).await {
            self.router.metrics.retry_delayed();
        }
    }

    fn tenant(&self) -> &TenantId {
        &self.request.standing.tenant.id
    }

    /// The prompt, then what was emitted.
    fn tokens(&self) -> Vec<TokenId> {
        [&self.request.prompt[..], self.merge.emitted()].concat()
    }

    /// What nodes are asked for now.
    fn spec(&self, place: &Place) -> SequenceSpec {
        let request = &self.request;
        let now = self.router.clock.now();
        let elapsed = now - request.arrived;
        SequenceSpec {
            key: request.key,
            epoch: self.arbiter.owner(),
            tokens: self.tokens(),
            prompt_len: request.prompt.len() as u32,
            max_tokens: request.max_tokens,
            sampling: request.sampling.clone(),
            stop_tokens: request.stop_tokens.clone(),
            cache_salt: 0,
            deadline: Some(request.deadline.saturating_sub(elapsed)),
            first_token_within: place.placement.demand.first_token_within(now),
        }
    }
}
