//! At the door: is this a request that can be answered, and in what tokens?

use std::{sync::Arc, time::Duration};

use baton_proto::status::Refuse;
use baton_text::{CallSplitter, OutputText, TextModel};
use baton_types::{
    ChoiceIndex, ModelId, RequestId, SamplingSpec, SequenceKey, StopTokens, Time, TokenId,
};
use tokio::sync::mpsc;
use tracing::Instrument;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    Answer, Ask, Before, MAX_CHOICES, NamedClass, Prompt, PromptIndex, Standing, Trace,
    choices::Lead, inside::Entered, run::Run,
};
use crate::{cluster::Served, config::DEFAULT_CLASS, error::RequestError, router::Router};

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
    pub(crate) place: PlaceAmong,
    pub(crate) model: ModelId,
    pub(crate) prompt: Arc<[TokenId]>,
    pub(crate) max_tokens: u32,
    pub(crate) sampling: SamplingSpec,
    /// Tokens that end the sequence.
    pub(crate) stop_tokens: StopTokens,
    pub(crate) output: OutputText,
    /// Set when tools may be called.
    pub(crate) calls: Option<CallSplitter>,
    pub(crate) before: Before,
    pub(crate) text: Arc<TextModel>,
    pub(crate) arrived: Time,
    /// Counted from its arrival.
    pub(crate) deadline: Duration,
    pub(crate) standing: Standing,
    pub(crate) inside: Arc<Entered>,
    pub(crate) trace: Option<Trace>,
}

/// A prompt's place among those of its request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PlaceAmong {
    pub(crate) index: PromptIndex,
    of: usize,
}

impl Router {
    /// Starts a request, or refuses it for what can be seen at the door.
    pub(crate) async fn submit(self: &Arc<Self>, ask: Ask) -> Result<Answer, RequestError> {
        let (id, arrived, choices) = (ask.caller.id, self.clock.now(), ask.choices);
        let mut before = ask.before.clone();
        let instead_of = ask.instead_of.zip(ask.caller.tenant.clone().ok());
        // The ids of several prompts are several, their name is one.
        let several = (ask.prompts.len() > 1).then(|| id.to_string());
        let tag = ask.caller.tag.clone().or(several);
        let trace = ask.caller.trace.map(|trace| trace.to_string());
        let admitted = self.admit(ask, arrived).await;
        let checked = admitted.and_then(|all| check_before(&all, &before).map(|()| all));
        let admitted = checked.inspect_err(|error| {
            self.metrics.ended(error.outcome());
            // Its text may quote the request.
            tracing::info!(%id, tag, trace, reason = error.reason(), "request refused");
        })?;
        if let Some((id, tenant)) = instead_of {
            self.inside.give_way(id, &tenant);
        }
        self.retries.earn();
        let (out, said) = mpsc::channel(AHEAD);
        let first = admitted.first().ok_or(RequestError::EmptyPrompt { param: "prompt" })?;
        let (model, seed) = (first.model.clone(), first.sampling.seed);
        let text = Arc::clone(&first.text);
        let prompts: Vec<_> = admitted.iter().map(|one| Arc::clone(&one.prompt)).collect();
        let mut work = Vec::with_capacity(choices as usize * prompts.len());
        for admitted in admitted {
            let (id, lead) = (admitted.id(), Lead::default());
            let slot = usize::from(admitted.place.index.0) * choices as usize;
            let mut is_first = true;
            for choice in (0..choices as u16).map(ChoiceIndex) {
                let before = before.get_mut(slot + usize::from(choice.0));
                let before = before.map(std::mem::take).unwrap_or_default();
                if before.is_over {
                    continue;
                }
                let span =
                    tracing::info_span!("request", %id, tag, trace, choice = choice.0, %model);
                let mut admitted = Admitted { before, ..admitted.clone() };
                if choice.0 > 0 {
                    admitted.key.choice = choice;
                    // The first choice has them told.
                    admitted.sampling.prompt_logprobs = None;
                }
                let part = lead.part(std::mem::take(&mut is_first));
                let run = Run::new(Arc::clone(self), admitted, part, out.clone());
                work.push(baton_node::task::owned(run.carry().instrument(span)));
            }
        }
        let left = work.len() as u32;
        Ok(Answer { id, model, seed, prompts, text, said, left, _work: work })
    }

    /// Lets all prompts in, or none.
    async fn admit(&self, ask: Ask, arrived: Time) -> Result<Vec<Admitted>, RequestError> {
        let Ask { caller, model, prompts, mut sampling, grammar_param, .. } = ask;
        check_numbers(ask.choices, prompts.len(), self.config.limits.max_in_flight)?;
        let tenant = caller.tenant?;
        let ids = (0..prompts.len() as u128).map(|nth| RequestId(caller.id.0.wrapping_add(nth)));
        let enter = |id| self.inside.enter(id, &tenant);
        let inside: Vec<Entered> = ids.map(enter).collect::<Result<_, _>>()?;
        let named = caller.class.or(ask.class).unwrap_or_else(|| NamedClass {
            param: "service_tier",
            name: DEFAULT_CLASS.to_owned(),
        });
        let standing = Standing::new(&self.config, &named, tenant, caller.slo?)?;
        let trace = caller.trace;
        let served = self.cluster.served(&model);
        let served = served.ok_or_else(|| self.cluster.unknown(model.to_string()))?;
        sampling.validate()?;
        let output = served.text.output(ask.stop)?;
        check_grammar(&served, &sampling, grammar_param, ask.ignore_eos).await?;
        let mut calls = None;
        if let [Prompt::Chat(chat)] = prompts.as_slice()
            && let Some(calling) = served.text.calling(chat, sampling.grammar.clone())
        {
            sampling.grammar = Some(calling.grammar);
            calls = Some(calling.splitter);
            check_grammar(&served, &sampling, "tools", ask.ignore_eos).await?;
        }
        let stop_tokens = stop_tokens(&served.text, &sampling, ask.ignore_eos, ask.stop_token_ids)?;
        let most = match caller.is_line {
            false => self.config.timeouts.request.0,
            true => self.config.batches.window.0,
        };
        let deadline = ask.deadline.map_or(most, |deadline| deadline.min(most));
        let of = prompts.len();
        let mut admitted = Vec::with_capacity(of);
        for ((nth, prompt), inside) in (0..).zip(prompts).zip(inside) {
            let place = PlaceAmong { index: PromptIndex(nth), of };
            let checked = check_prompt(&served, prompt, ask.max_tokens, sampling.min_tokens).await;
            let (prompt, max_tokens) = checked.map_err(|error| place.blame(error))?;
            if nth > 0 && !ask.seeded {
                // Whoever knows the first one's knows it.
                sampling.seed = xxh3_64_with_seed(&nth.to_le_bytes(), sampling.seed);
            }
            admitted.push(Admitted {
                key: SequenceKey { request: inside.id, choice: ChoiceIndex(0) },
                place,
                model: model.clone(),
                standing: standing.of_prompt(prompt.len()),
                prompt,
                max_tokens,
                sampling: sampling.clone(),
                stop_tokens: stop_tokens.clone(),
                output: output.clone(),
                calls: calls.clone(),
                before: Before::default(),
                text: Arc::clone(&served.text),
                arrived,
                deadline,
                inside: Arc::new(inside),
                trace,
            });
        }
        Ok(admitted)
    }
}

/// Refuses more prompts and choices than one request may have, where `inside` prompts at most could
/// ever be inside.
pub(crate) fn check_numbers(choices: u32, prompts: usize, inside: u32) -> Result<(), RequestError> {
    if !(1..=MAX_CHOICES).contains(&choices) {
        return Err(RequestError::Choices { given: choices, max: MAX_CHOICES });
    }
    let max = (MAX_CHOICES / choices).min(inside.max(1)) as usize;
    if prompts > max {
        return Err(RequestError::Prompts { given: prompts, choices, max });
    }
    Ok(())
}

/// Refuses outputs that can't be the beginnings of the answers.
fn check_before(admitted: &[Admitted], before: &[Before]) -> Result<(), RequestError> {
    let Some(Admitted { text, max_tokens, .. }) = admitted.first() else { return Ok(()) };
    let (param, vocab) = ("resume.received", text.vocab());
    for Before { known, .. } in before {
        if known.len() > *max_tokens as usize {
            let message = format!(
                "{param} has {} tokens of a choice; at most {max_tokens} are generated",
                known.len()
            );
            return Err(RequestError::invalid(param, "invalid_value", message));
        }
        if let Some(&token) = known.iter().find(|token| token.0 as usize >= vocab) {
            return Err(RequestError::NoSuchToken { param, token, vocab });
        }
    }
    Ok(())
}

/// A prompt's tokens, and how many may be generated.
async fn check_prompt(
    served: &Served,
    prompt: Prompt,
    max_tokens: Option<u32>,
    min_tokens: u32,
) -> Result<(Arc<[TokenId]>, u32), RequestError> {
    let param = prompt.param();
    if prompt.is_empty() {
        return Err(RequestError::EmptyPrompt { param });
    }
    let vocab = served.text.vocab();
    if let Prompt::Tokens(tokens) = &prompt
        && let Some(&token) = tokens.iter().find(|token| token.0 as usize >= vocab)
    {
        return Err(RequestError::NoSuchToken { param, token, vocab });
    }
    let prompt = tokenise(Arc::clone(&served.text), prompt).await?;
    let max_context = match served.max_context() {
        // Nobody has the model now, which whoever places the request will tell.
        0 => u32::MAX,
        max => max,
    };
    let max_tokens = output_tokens(param, prompt.len(), max_tokens, max_context)?;
    if min_tokens > max_tokens {
        return Err(RequestError::MinTokens { min: min_tokens, max: max_tokens });
    }
    Ok((prompt.into(), max_tokens))
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

impl PlaceAmong {
    /// `error` of this prompt, which it names unless it is the only one.
    pub(crate) fn blame(self, error: RequestError) -> RequestError {
        if self.of > 1 { error.in_prompt(self.index) } else { error }
    }
}

impl Admitted {
    pub(crate) fn id(&self) -> RequestId {
        self.key.request
    }

    /// Whether nothing of the same request goes before it.
    pub(crate) fn is_first(&self) -> bool {
        self.place.index.0 == 0 && self.key.choice.0 == 0
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
    fn prompts_and_choices_are_bounded_together() {
        let check = |choices, prompts, inside, expected| {
            let given = check_numbers(choices, prompts, inside);
            assert_eq!(given, expected, "{prompts} prompts, {choices} choices");
        };
        let many = |given, choices, max| Err(RequestError::Prompts { given, choices, max });
        check(1, 128, 4096, Ok(()));
        check(1, 129, 4096, many(129, 1, 128));
        check(128, 1, 4096, Ok(()));
        check(3, 42, 4096, Ok(()));
        check(3, 43, 4096, many(43, 3, 42));
        check(129, 2, 4096, Err(RequestError::Choices { given: 129, max: 128 }));
        // More would never fit.
        check(1, 9, 8, many(9, 1, 8));
        check(128, 1, 1, Ok(()));
    }

    #[test]
    fn the_refusal_names_the_limit_and_what_was_asked_for() {
        let error = output_tokens("messages", 95, Some(6), 100).unwrap_err().to_string();
        for part in ["100 tokens", "101 tokens", "95 in the messages", "6 in the completion"] {
            assert!(error.contains(part), "{part:?} is not in {error:?}");
        }
    }
}
