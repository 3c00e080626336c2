//! A running sequence changes nodes: what the arbiter orders, done over the nodes' streams.
//!
//! `crates/migration/PROTOCOL.md` has the protocol. Here each message is a message of a gRPC stream, which
//! loses nothing without breaking; so what the arbiter says again needn't be sent again, and what breaks
//! is told to it as a word.

mod calls;
mod moving;

use std::time::Duration;

use baton_migration::{Ended, FromDestination, FromSource, Order, ToDestination, ToSource};
use baton_proto::{
    convert::{self, micros},
    node::v1::{
        self as node, AdoptRequest, AdoptResponse, OfferRequest, OfferResponse, Own, adopt_request,
        adopt_response, offer_request, offer_response,
    },
};
use baton_types::{Capability, Epoch, SequenceSpec, Time};
use rand::Rng;
use tonic::Status;

pub(super) use self::moving::Moving;
use self::{calls::Terms, moving::Migration};
use super::{Cut, Run};
use crate::{
    cluster::Place,
    error::RequestError,
    ledger::Noted,
    moves::{Gap, MoveOrder, Moved, NotMoved},
    request::{
        Said,
        attempt::{Attempt, Side, Word, decode_word},
        failure::{Failure, Kind, Pair},
    },
};

/// How long a client may take to read on while its sequence moves. Shorter than the nodes' leases.
const PATIENCE: Duration = Duration::from_secs(1);

fn unread() -> NotMoved {
    NotMoved::Failed { why: "its client doesn't read".to_owned() }
}

/// Whatever happens to a sequence that runs.
enum Happening {
    Word(Result<Word, Failure>),
    Order(MoveOrder),
    Source(Option<Result<OfferResponse, Status>>),
    Destination(Option<Result<AdoptResponse, Status>>),
    Timeout,
}

impl Migration {
    async fn next(migration: &mut Option<Migration>) -> Happening {
        let Some(Migration { source, destination, .. }) = migration else {
            return std::future::pending().await;
        };
        tokio::select! {
            said = source.next() => Happening::Source(said),
            said = destination.next() => Happening::Destination(said),
        }
    }
}

impl Run {
    /// Waits for the next thing that happens to the sequence, and does what is to be done about it.
    pub(super) async fn happen(
        &mut self,
        attempt: &mut Attempt,
        place: &mut Place,
    ) -> Result<(), Cut> {
        let happening = self.next_happening(attempt).await;
        let now = self.router.clock.now();
        match happening {
            Happening::Word(word) => self.hear(word, attempt, place)?,
            Happening::Order(order) => self.begin_to_move(order, attempt, place),
            Happening::Source(said) => self.hear_source(said),
            Happening::Destination(said) => self.hear_destination(said, attempt)?,
            Happening::Timeout => self.arbiter.handle_timeout(now),
        }
        self.obey(attempt, place)
    }

    async fn next_happening(&mut self, attempt: &mut Attempt) -> Happening {
        let is_far_ahead = self.merge.is_far_ahead();
        let Moving { orders, migration, .. } = &mut self.moves;
        let (is_moving, is_decoding) = (migration.is_some(), attempt.is_decoding());
        let timeout = self.arbiter.poll_timeout().map(|at| at.since(self.router.clock.now()));
        let overdue = async {
            match timeout {
                Some(left) => tokio::time::sleep(left).await,
                None => std::future::pending().await,
            }
        };
        // Without the decode node's stream all waits for the migration.
        let is_heard = !is_moving || !attempt.is_silent();
        tokio::select! {
            // What has come counts before what hasn't come in time: this router may have been late itself.
            biased;
            happening = Migration::next(migration) => happening,
            word = attempt.next(is_far_ahead), if is_heard => Happening::Word(word),
            Some(order) = orders.recv(), if is_decoding && !is_moving => Happening::Order(order),
            () = overdue => Happening::Timeout,
        }
    }

    /// The nodes that work on the sequence spoke, or failed.
    fn hear(
        &mut self,
        word: Result<Word, Failure>,
        attempt: &mut Attempt,
        place: &Place,
    ) -> Result<(), Cut> {
        let now = self.router.clock.now();
        match word {
            Ok(Word::Frozen { attempt: epoch, tokens }) => {
                self.hear_frozen(now, epoch, tokens);
                Ok(())
            }
            Ok(word) => {
                if matches!(word, Word::Tokens { .. }) {
                    self.moves.last_token = Some(now);
                }
                let taken = self.take(word, attempt.epoch, place);
                Ok(taken.map_err(|error| Failure::protocol(&attempt.pair, &error))?)
            }
            Err(failure) => match &self.moves.migration {
                // The destination has everything.
                Some(migration) if migration.granted => {
                    attempt.close_decode();
                    self.arbiter.from_source(now, migration.epoch, FromSource::Gone);
                    Ok(())
                }
                _ => Err(failure.into()),
            },
        }
    }

    /// The sequence has left its batch; all its tokens are here, for they came before.
    fn hear_frozen(&mut self, now: Time, epoch: Epoch, tokens: u32) {
        let have = self.request.prompt.len() + self.merge.emitted().len();
        if have == tokens as usize {
            self.arbiter.from_source(now, epoch, FromSource::Frozen { tokens });
        } else {
            let why =
                format!("it left its node with {tokens} tokens, and {have} have come from there");
            self.give_up(NotMoved::Failed { why });
        }
    }

    fn hear_source(&mut self, said: Option<Result<OfferResponse, Status>>) {
        let Some(Migration { epoch, source, .. }) = &mut self.moves.migration else { return };
        let (now, epoch) = (self.router.clock.now(), *epoch);
        let why = match said.map(|said| said.map(|said| said.event)) {
            Some(Ok(Some(offer_response::Event::Bare(_)))) => {
                return self.arbiter.from_source(now, epoch, FromSource::Bare);
            }
            // Then its own stream tells how it ended.
            Some(Ok(Some(offer_response::Event::Gone(_)))) => {
                "its node has no such sequence".to_owned()
            }
            Some(Ok(Some(offer_response::Event::Offered(_)) | None)) => return,
            Some(Err(status)) => status.message().to_owned(),
            None => "its node took the offer back".to_owned(),
        };
        *source = Side::closed();
        self.give_up(NotMoved::Failed { why });
    }

    fn hear_destination(
        &mut self,
        said: Option<Result<AdoptResponse, Status>>,
        attempt: &Attempt,
    ) -> Result<(), Failure> {
        let now = self.router.clock.now();
        let Some(migration) = &mut self.moves.migration else { return Ok(()) };
        let (epoch, granted) = (migration.epoch, migration.granted);
        let pair = Pair { prefill: None, decode: Some(migration.to.clone()) };
        let said = match said {
            Some(Ok(said)) => said.event.ok_or_else(|| "it said nothing".to_owned()),
            Some(Err(status)) => Err(status.message().to_owned()),
            None => Err("its stream ended too early".to_owned()),
        };
        let word = match said {
            Ok(adopt_response::Event::Prepared(node::Prepared { tokens, .. })) => {
                migration.prepared = Some(now);
                let prepared = FromDestination::Prepared { tokens };
                self.arbiter.from_destination(now, epoch, prepared);
                return Ok(());
            }
            Ok(adopt_response::Event::Run(run)) => {
                decode_word(&pair, run).map_err(|failure| failure.message)
            }
            Err(why) => Err(why),
        };
        match word {
            Ok(Word::Joined(_)) => {}
            Ok(word @ (Word::Tokens { .. } | Word::Finished(_))) if granted => {
                let taken = match word {
                    Word::Tokens { tokens, step_us } => {
                        migration.first_step = Duration::from_micros(step_us);
                        tokens.into_iter().try_for_each(|token| self.accept(epoch, token))
                    }
                    Word::Finished(reason) => {
                        self.merge.finish(epoch, reason);
                        Ok(())
                    }
                    _ => Ok(()),
                };
                taken.map_err(|error| Failure::protocol(&attempt.pair, &error))?;
                self.arbiter.from_destination(now, epoch, FromDestination::Running);
            }
            Ok(_) => self.lose_destination(now, epoch, "it runs what isn't its own".to_owned()),
            Err(why) => self.lose_destination(now, epoch, why),
        }
        Ok(())
    }

    fn lose_destination(&mut self, now: Time, epoch: Epoch, why: String) {
        if let Some(migration) = &mut self.moves.migration {
            let why = format!("{}: {why}", migration.to);
            migration.why_not.get_or_insert(NotMoved::Failed { why });
            migration.destination = Side::closed();
        }
        self.arbiter.from_destination(now, epoch, FromDestination::Gone);
    }

    /// Sends something to the client. One who doesn't read for long isn't waited for in the middle of a move:
    /// both nodes hold the sequence's pages for it.
    pub(super) async fn tell(
        &mut self,
        said: Result<Said, RequestError>,
        attempt: &mut Attempt,
        place: &mut Place,
    ) -> Result<(), Cut> {
        let out = self.out.clone();
        let mut sending = std::pin::pin!(out.reserve());
        let in_time = tokio::time::timeout(PATIENCE, &mut sending).await;
        let permit = match in_time {
            Ok(permit) => permit,
            Err(_late) => {
                self.give_up(unread());
                self.obey(attempt, place)?;
                loop {
                    tokio::select! {
                        permit = &mut sending => break permit,
                        // Whoever asked may have gone.
                        Some(order) = self.moves.orders.recv() => drop(order.answer.send(Err(unread()))),
                    }
                }
            }
        };
        permit.map_err(|_closed| Cut::Hangup)?.send(said);
        Ok(())
    }

    fn give_up(&mut self, why: NotMoved) {
        if let Some(migration) = &mut self.moves.migration {
            migration.why_not.get_or_insert(why);
        }
        self.arbiter.give_up();
    }

    /// Begins to move, or says why not.
    fn begin_to_move(&mut self, order: MoveOrder, attempt: &Attempt, place: &Place) {
        let answer = |order: MoveOrder, why| {
            // Whoever asked may have gone.
            let _ = order.answer.send(Err(why));
        };
        let Some(source) = place.decode() else { return answer(order, NotMoved::Ended) };
        let from = source.hello.node.clone();
        if order.to.as_ref() == Some(&from) {
            return answer(order, NotMoved::There { node: from });
        }
        if source.hello.data_address.is_empty() {
            return answer(order, NotMoved::Unable { node: from });
        }
        let tokens = self.tokens();
        let request = self.place_request(&tokens);
        let there = self.router.cluster.place_move(&request, place, order.to.as_ref());
        let there = match there {
            Ok(there) => there,
            Err(shortage) => return answer(order, NotMoved::NoRoom(shortage)),
        };
        let Some(destination) = there.decode() else { return answer(order, NotMoved::Ended) };
        let now = self.router.clock.now();
        let epoch = match self.arbiter.begin(now) {
            Ok(epoch) => epoch,
            Err(busy) => return answer(order, NotMoved::Failed { why: busy.to_string() }),
        };
        let capability = Capability(rand::rng().random());
        let spec = SequenceSpec { epoch, ..self.spec(&there) };
        let urgent = order.why.is_urgent();
        let terms = Terms { epoch: attempt.epoch, attempt: epoch, capability, urgent };
        let (to_source, source_side) = calls::offer(&self.request, &source, terms);
        let pages = convert::Source {
            node: from.clone(),
            generation: source.hello.generation,
            address: source.hello.data_address.clone(),
            capability,
        };
        let told = spec.tokens.len();
        let (to_destination, destination_side) =
            calls::adopt(&self.request, &destination, spec, pages);
        tracing::debug!(%epoch, %from, to = %destination.hello.node, why = order.why.label(), "moving");
        self.moves.migration = Some(Migration {
            epoch,
            order,
            began: now,
            from,
            to: destination.hello.node.clone(),
            place: there,
            told,
            to_source,
            source: source_side,
            to_destination,
            destination: destination_side,
            prepared: None,
            first_step: Duration::ZERO,
            granted: false,
            why_not: None,
        });
    }

    /// Does what the arbiter orders.
    fn obey(&mut self, attempt: &mut Attempt, place: &mut Place) -> Result<(), Cut> {
        while let Some(order) = self.arbiter.poll_order() {
            match order {
                // They were said when the calls were made.
                Order::ToSource(_, ToSource::Offer)
                | Order::ToDestination(_, ToDestination::Prepare) => {}
                Order::ToDestination(epoch, ToDestination::Own) => self.grant(epoch),
                Order::ToDestination(epoch, ToDestination::Drop) => {
                    if let Some(migration) = self.moves.of(epoch) {
                        migration.destination = Side::closed();
                    }
                }
                Order::ToSource(of, ToSource::Resume { epoch }) => self.resume(of, epoch, attempt),
                // Its own stream is dropped, which is the same.
                Order::ToSource(_, ToSource::Release) => {}
                Order::Ended(_, ended) => self.end_move(ended, attempt, place),
                Order::Replay => {
                    let nodes = attempt.pair.decode.iter().cloned().collect();
                    let message = "it was lost while it moved".to_owned();
                    let kind = if self.moves.was_bare { Kind::Moved } else { Kind::Node };
                    return Err(Failure { kind, nodes, message }.into());
                }
            }
        }
        Ok(())
    }

    /// The destination owns the sequence from now on.
    fn grant(&mut self, epoch: Epoch) {
        let tokens = self.tokens();
        let elapsed = self.router.clock.now() - self.request.arrived;
        let Some(migration) = self.moves.of(epoch) else { return };
        if std::mem::replace(&mut migration.granted, true) {
            return;
        }
        self.merge.grant(epoch);
        let own = Own {
            tokens: tokens[migration.told..].iter().map(|token| token.0).collect(),
            deadline_us: Some(micros(self.request.deadline.saturating_sub(elapsed))),
        };
        let message = Some(adopt_request::Message::Own(own));
        // Only the start was sent before; a node that is gone is heard of otherwise.
        let _ = migration.to_destination.try_send(AdoptRequest { message });
    }

    /// The sequence goes on where it was.
    fn resume(&mut self, of: Epoch, epoch: Epoch, attempt: &mut Attempt) {
        let Some(migration) = self.moves.of(of) else { return };
        if migration.granted {
            self.merge.grant(epoch);
        }
        attempt.epoch = epoch;
        let message = offer_request::Message::Resume(node::Resume { epoch: Some(epoch.into()) });
        let _ = migration.to_source.try_send(OfferRequest { message: Some(message) });
    }

    fn end_move(&mut self, ended: Ended, attempt: &mut Attempt, place: &mut Place) {
        self.moves.was_bare = ended == Ended::Bare;
        let Some(migration) = self.moves.migration.take() else { return };
        let now = self.router.clock.now();
        let Migration { epoch, order, began, from, to, place: there, destination, .. } = migration;
        let (prepared, first_step) = (migration.prepared, migration.first_step);
        let (took, metrics) = (now - began, &self.router.metrics);
        let answer = match ended {
            Ended::Moved => {
                place.moved_to(&there);
                let left = std::mem::replace(place, there);
                let message = Some(offer_request::Message::Release(node::Release {}));
                // One that is gone is heard of otherwise.
                let _ = migration.to_source.try_send(OfferRequest { message });
                self.moves.part(migration.source, (migration.to_source, left));
                attempt.moved(to.clone(), destination.run(), epoch);
                self.moves.is_at(place);
                self.timing.moved(&to);
                let last = self.moves.last_token.replace(now).unwrap_or(began);
                let tail = prepared.map_or(Duration::ZERO, |prepared| prepared.since(last));
                let gap = Gap { whole: now - last, tail, step: first_step };
                metrics.moved(order.why.label(), took, gap.whole);
                self.router.ledger.note(Noted {
                    key: self.request.key,
                    attempt: self.attempts,
                    waited: Duration::ZERO,
                    standing: &self.request.standing,
                    placement: &place.placement,
                    moved_from: Some(&from),
                });
                tracing::info!(%epoch, %from, %to, ?took, ?gap, why = order.why.label(), "moved");
                Ok(Moved { from, to: Some(to), took, gap })
            }
            Ended::Bare => {
                metrics.placed_anew(order.why.label());
                Ok(Moved { from, to: None, took, gap: Gap::default() })
            }
            Ended::Stayed | Ended::Lost => {
                let late = || NotMoved::Failed { why: "it took too long".to_owned() };
                let why = migration.why_not.unwrap_or_else(late);
                metrics.not_moved(order.why.label());
                tracing::info!(%epoch, %from, %to, ?took, %why, "not moved");
                self.moves.part(migration.source, migration.to_source);
                Err(why)
            }
        };
        // Whoever asked may have gone.
        let _ = order.answer.send(answer);
    }
}
