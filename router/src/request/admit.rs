//! At the door: is this a request that can be answered, and in what tokens?

use std::{sync::Arc, time::Duration};

use baton_policy::Priority;
use baton_proto::status::Refuse;
use baton_text::{CallSplitter, OutputText, TextModel};
use baton_types::{
    ChoiceIndex, ModelId, RequestId, SamplingSpec, SequenceKey, StopTokens, Time, TokenId,
};
use tokio::sync::mpsc;
use tracing::Instrument;

use super::{
    Answer, Ask, MAX_CHOICES, Prompt, Slo, Trace, choices::Lead, inside::Entered, run::Run,
};
use crate::{cluster::Served, error::RequestError, router::Router};

/// More tokens that may end a sequence.
const MAX_STOP_TOKENS: usize = 64;
/// Longer texts are tokenised off the runtime's own threads.
const LONG_TEXT: usize = 16 << 10;
/// Messages a client may lag behind before its request waits.
const AHEAD: usize = 16;

/// A request that may run, or one choice of it.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    pub(crate) key: SequenceKey,
    pub(crate) model: ModelId,
    pub(crate) prompt: Arc<[TokenId]>,
    pub(crate) max_tokens: u32,
    pub(crate) sampling: SamplingSpec,
    /// Tokens that end the sequence.
    pub(crate) stop_tokens: StopTokens,
    pub(crate) output: OutputText,
    /// Set when tools may be called.
    pub(crate) calls: Option<CallSplitter>,
    pub(crate) text: Arc<TextModel>,
    pub(crate) arrived: Time,
    /// Counted from its arrival.
    pub(crate) deadline: Duration,
    pub(crate) priority: Priority,
    /// Its place in line.
    pub(crate) number: u64,
    pub(crate) inside: Arc<Entered>,
    pub(crate) trace: Option<Trace>,
    pub(crate) slo: Slo,
}

impl Router {
    /// Starts a request, or refuses it for what can be seen at the door.
    pub(crate) async fn submit(self: &Arc<Self>, ask: Ask) -> Result<Answer, RequestError> {
        let (id, arrived, choices) = (ask.caller.id, self.clock.now(), ask.choices);
        let tag = ask.caller.tag.clone();
        let trace = ask.caller.trace.map(|trace| trace.to_string());
        let admitted = self.admit(ask, arrived).await.inspect_err(|error| {
            self.metrics.ended(error.outcome());
            // Its text may quote the request.
            tracing::info!(%id, tag, trace, reason = error.reason(), "request refused");
        })?;
        let (out, said) = mpsc::channel(AHEAD);
        let (model, seed) = (admitted.model.clone(), admitted.sampling.seed);
        let text = Arc::clone(&admitted.text);
        let prompt = Arc::clone(&admitted.prompt);
        let lead = Lead::default();
        let work = (0..choices as u16).map(ChoiceIndex).map(|choice| {
            let span = tracing::info_span!("request", %id, tag, trace, choice = choice.0, %model);
            let mut admitted = admitted.clone();
            if choice.0 > 0 {
                admitted.key.choice = choice;
                // The first choice has them told.
                admitted.sampling.prompt_logprobs = None;
                admitted.number = self.next_number();
            }
            let run = Run::new(Arc::clone(self), admitted, lead.part(choice), out.clone());
            baton_node::task::owned(run.carry().instrument(span))
        });
        let work = work.collect();
        Ok(Answer { id, model, seed, prompt, text, said, left: choices, _work: work })
    }

    async fn admit(&self, ask: Ask, arrived: Time) -> Result<Admitted, RequestError> {
        let Ask { caller, model, prompt, mut sampling, grammar_param, .. } = ask;
        let inside = Arc::new(self.inside.enter(caller.id)?);
        let (trace, slo, priority) = (caller.trace, caller.slo?, caller.priority);
        if !(1..=MAX_CHOICES).contains(&ask.choices) {
            return Err(RequestError::Choices { given: ask.choices, max: MAX_CHOICES });
        }
        let served = self
            .cluster
            .served(&model)
            .ok_or_else(|| RequestError::UnknownModel { model: model.to_string() })?;
        sampling.validate()?;
        let output = served.text.output(ask.stop)?;
        let param = prompt.param();
        if prompt.is_empty() {
            return Err(RequestError::EmptyPrompt { param });
        }
        check_grammar(&served, &sampling, grammar_param, ask.ignore_eos).await?;
        let mut calls = None;
        if let Prompt::Chat(chat) = &prompt
            && let Some(calling) = served.text.calling(chat, sampling.grammar.clone())
        {
            sampling.grammar = Some(calling.grammar);
            calls = Some(calling.splitter);
            check_grammar(&served, &sampling, "tools", ask.ignore_eos).await?;
        }
        let stop_tokens = stop_tokens(&served.text, &sampling, ask.ignore_eos, ask.stop_token_ids)?;
        let prompt = tokenise(Arc::clone(&served.text), prompt).await?;
        let max_context = match served.max_context() {
            // Nobody has the model now, which whoever places the request will tell.
            0 => u32::MAX,
            max => max,
        };
        let max_tokens = output_tokens(param, prompt.len(), ask.max_tokens, max_context)?;
        if sampling.min_tokens > max_tokens {
            let (min, max) = (sampling.min_tokens, max_tokens);
            return Err(RequestError::MinTokens { min, max });
        }
        let most = match priority {
            Priority::Interactive => self.config.timeouts.request.0,
            Priority::Batch => self.config.batches.window.0,
        };
        Ok(Admitted {
            key: SequenceKey { request: caller.id, choice: ChoiceIndex(0) },
            model,
            prompt: prompt.into(),
            max_tokens,
            sampling,
            stop_tokens,
            output,
            calls,
            arrived,
            deadline: ask.deadline.map_or(most, |deadline| deadline.min(most)),
            text: served.text,
            priority,
            number: self.next_number(),
            inside,
            trace,
            slo,
        })
    }
}

/// Refuses a grammar that no node could use.
async fn check_grammar(
    served: &Served,
    sampling: &SamplingSpec,
    param: &'static str,
    ignore_eos: bool,
) -> Result<(), RequestError> {
    let Some(grammar) = sampling.grammar.clone() else { return Ok(()) };
    if ignore_eos {
        return Err(RequestError::EndlessGrammar);
    }
    let grammars = Arc::clone(&served.grammars);
    let checking = tokio::task::spawn_blocking(move || grammars.check(&grammar));
    let checked = checking.await.map_err(|error| RequestError::Internal(error.to_string()))?;
    checked.map_err(|source| RequestError::Grammar { param, source })
}

/// What ends the sequence. Ids the model doesn't have are refused, here and in the bias.
fn stop_tokens(
    text: &TextModel,
    sampling: &SamplingSpec,
    ignore_eos: bool,
    more: Vec<TokenId>,
) -> Result<StopTokens, RequestError> {
    if more.len() > MAX_STOP_TOKENS {
        let (given, max) = (more.len(), MAX_STOP_TOKENS);
        return Err(RequestError::StopTokens { given, max });
    }
    let biased = sampling.logit_bias.iter().map(|&(id, _)| ("logit_bias", id));
    let stops = more.iter().map(|&id| ("stop_token_ids", id));
    let vocab = text.vocab();
    if let Some((param, token)) = biased.chain(stops).find(|(_, id)| id.0 as usize >= vocab) {
        return Err(RequestError::NoSuchToken { param, token, vocab });
    }
    let own = if ignore_eos { Vec::new() } else { text.eos().0.clone() };
    Ok(StopTokens([own, more].concat()))
}

/// The most tokens to generate: what was asked for, or what the context leaves.
fn output_tokens(
    param: &'static str,
    prompt: usize,
    asked: Option<u32>,
    max: u32,
) -> Result<u32, RequestError> {
    if prompt == 0 {
        return Err(RequestError::EmptyPrompt { param });
    }
    let prompt = u32::try_from(prompt).unwrap_or(u32::MAX);
    let left = max.saturating_sub(prompt);
    let output = asked.unwrap_or(left.max(1));
    if output > left {
        return Err(RequestError::ContextLength { param, prompt, output, max });
    }
    Ok(output)
}

/// A prompt's tokens.
pub(crate) async fn tokenise(
    text: Arc<TextModel>,
    prompt: Prompt,
) -> Result<Vec<TokenId>, RequestError> {
    let param = prompt.param();
    let length = match &prompt {
        Prompt::Tokens(_) => 0,
        Prompt::Text(text) => text.len(),
        Prompt::Chat(chat) => chat.messages.iter().map(|message| message.content.len()).sum(),
    };
    let encode = move || match prompt {
        Prompt::Tokens(tokens) => Ok(tokens),
        Prompt::Text(prompt) => text.encode(&prompt),
        Prompt::Chat(chat) => text.encode_chat(&chat),
    };
    let encoded = if length > LONG_TEXT {
        let encoding = tokio::task::spawn_blocking(encode).await;
        encoding.map_err(|error| RequestError::Internal(error.to_string()))?
    } else {
        encode()
    };
    encoded.map_err(|source| RequestError::Text { param, source })
}

impl Admitted {
    pub(crate) fn id(&self) -> RequestId {
        self.key.request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_context_bounds_the_output() {
        let check = |prompt, asked, expected| {
            assert_eq!(output_tokens("prompt", prompt, asked, 100).ok(), expected, "{prompt}");
        };
        check(10, None, Some(90));
        check(10, Some(90), Some(90));
        check(10, Some(91), None);
        check(99, None, Some(1));
        check(100, None, None);
        check(1000, None, None);
        check(0, None, None);
    }

    #[test]
    fn the_refusal_names_the_limit_and_what_was_asked_for() {
        let error = output_tokens("messages", 95, Some(6), 100).unwrap_err().to_string();
        for part in ["100 tokens", "101 tokens", "95 in the messages", "6 in the completion"] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
}
