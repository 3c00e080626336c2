//! `Decode.Adopt`: a sequence that runs elsewhere comes here.
//!
//! Its pages are pulled while it runs on; when all are here the router is told, and the sequence runs when
//! the router says that it is this node's. Dropping the stream gives everything back, at any point.

use std::{sync::Arc, time::Duration};

use baton_migration::{
    Destination, DestinationConfig, DestinationOrder, FromDestination, ToDestination,
};
use baton_node::{
    Node,
    clock::Clock,
    error::RunError,
    respond::{Cut, Outgoing},
    wire,
};
use baton_proto::node::v1::{
    self as proto, AdoptRequest, AdoptResponse, Own, adopt_request::Message, adopt_response::Event,
};
use baton_scheduler::{Goal, ImportedToken, Start, Submission};
use baton_types::{SequenceSpec, TokenId};
use tokio::sync::OwnedSemaphorePermit;
use tonic::Streaming;

use crate::{
    import::{Imports, Reserved, Source},
    kept::{KeptOutputs, Making},
    service::stream,
};

/// A sequence that comes here.
pub(crate) struct Coming {
    pub(crate) spec: SequenceSpec,
    pub(crate) source: Source,
    pub(crate) reserved: Reserved,
    /// Its place among those that come at the same time.
    pub(crate) slot: OwnedSemaphorePermit,
    /// Where what is made of it is kept.
    pub(crate) kept: Arc<KeptOutputs>,
    pub(crate) tenant: Box<str>,
}

/// Serves it to its end.
pub(crate) async fn serve(
    node: Arc<Node>,
    imports: Imports,
    coming: Coming,
    mut words: Streaming<AdoptRequest>,
    out: Outgoing<AdoptResponse>,
) -> Result<(), Cut> {
    let Coming { spec, source, reserved, slot, kept, tenant } = coming;
    let clock = Clock::start();
    let config = DestinationConfig::default();
    let mut destination = Destination::new(config, clock.now(), spec.epoch);
    destination.poll_order();
    // What is pulled isn't of use without the router: its stream ends with its word.
    let following = async {
        let following = imports.follow(&spec, source, reserved);
        tokio::try_join!(following, node.constraint(&spec))
    };
    let ((followed, cached_tokens), constraint) = tokio::select! {
        followed = following => followed?,
        _early = words.message() => return Ok(()),
        () = tokio::time::sleep(config.attempt) => {
            return Err(RunError::NoWord { patience: config.attempt }.into());
        }
    };
    destination.pulled(clock.now(), Some(followed.tokens));
    let prepared = proto::Prepared {
        tokens: followed.tokens + 1,
        exposed_transfer_us: wire::micros(followed.exposed),
        pages: followed.pages,
        bytes: followed.bytes,
        cached_tokens,
    };
    let mut own = None;
    loop {
        match destination.poll_order() {
            Some(DestinationOrder::Tell(FromDestination::Prepared { .. })) => {
                out.send(AdoptResponse { event: Some(Event::Prepared(prepared)) }).await?;
            }
            Some(DestinationOrder::Run) => break,
            Some(DestinationOrder::Abandon) => {
                return Err(RunError::NoWord { patience: config.lease }.into());
            }
            Some(DestinationOrder::Tell(_) | DestinationOrder::Pull) => {}
            None => {
                let left = destination.poll_timeout().map(|at| at.since(clock.now()));
                tokio::select! {
                    word = words.message() => {
                        let Some(Message::Own(given)) = word.ok().flatten().and_then(|w| w.message)
                        else {
                            return Ok(());
                        };
                        own = Some(given);
                        destination.hears(spec.epoch, ToDestination::Own);
                    }
                    () = tokio::time::sleep(left.unwrap_or(config.lease)) => {
                        destination.handle_timeout(clock.now());
                    }
                }
            }
        }
    }
    let (spec, first) = owned(spec, own.unwrap_or_default(), followed.tokens)?;
    let mut making = Making::new(&kept, &spec, tenant);
    making.push(first.token);
    let start = Start::Imported { blocks: followed.blocks, cached_tokens, first };
    let submission = Submission { spec, start, goal: Goal::Finish, constraint };
    let running = node.steps.submit(submission, None).await?;
    // It is here; another one may come.
    drop(slot);
    let joined = proto::Joined {
        exposed_transfer_us: prepared.exposed_transfer_us,
        pages: prepared.pages,
        bytes: prepared.bytes,
        cached_tokens,
        ..proto::Joined::default()
    };
    stream(running, making, joined, out).await
}

/// The sequence as it is to go on: with the tokens behind those that were known when it began to come, the
/// last of which isn't in the `cached` ones.
fn owned(
    mut spec: SequenceSpec,
    own: Own,
    cached: u32,
) -> Result<(SequenceSpec, ImportedToken), RunError> {
    spec.tokens.extend(own.tokens.into_iter().map(TokenId));
    let given = spec.tokens.len();
    if given != cached as usize + 1 {
        return Err(RunError::WrongTokens { given, expected: cached + 1 });
    }
    let token = spec.tokens.pop().expect("it has one more than the cached ones");
    spec.deadline = own.deadline_us.map(Duration::from_micros);
    // Whoever computed the prompt has told them.
    spec.sampling.prompt_logprobs = None;
    Ok((spec, ImportedToken { token }))
}
