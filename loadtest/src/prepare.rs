//! What must be asked of targets before the load: which model, how it counts tokens, and whether it answers at all.

use std::{
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use baton_text::{HuggingFace, TextModel};
use baton_workload::{Prompt, Segment};

use crate::{
    args::LoadArgs,
    heard::Heard,
    measure::{Recorder, Window},
    plan::Plan,
    prompt::{OPENER, Speaker, Words, WordsError},
    slo::Objectives,
    target::{Api, Ask, Asking, Failure, Message, Target, TargetSpec},
};

/// A target that has answered.
#[derive(Debug)]
pub(crate) struct Ready {
    pub spec: TargetSpec,
    pub asking: Asking,
    pub speaker: Speaker,
}

/// What to say of it before the load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Remark(pub String);

#[derive(Debug, thiserror::Error)]
pub(crate) enum PrepareError {
    #[error("{name} can't be asked: {failure}")]
    Target { name: String, failure: Failure },
    #[error("{name} serves no model; start one, or name it with --model")]
    NoModel { name: String },
    #[error("{path}: {why}")]
    Tokenizer { path: String, why: String },
    #[error("no prompts can be made: {0}")]
    Words(#[from] WordsError),
}

/// How long a target may take for its first token of all.
const PATIENCE: Duration = Duration::from_secs(60);
/// Tokens of the two prompts that show what a server adds to a text.
const SHORT: u32 = 64;
const LONG: u32 = 192;
/// Tokens that we count for each of the server's: what tokenisers differ by.
const SCALES: std::ops::RangeInclusive<f64> = 0.25..=4.0;

/// Asks each target for its models, its tokens, and two short answers.
///
/// # Errors
///
/// One that doesn't answer.
pub(crate) async fn prepare(
    args: &LoadArgs,
    plan: &Plan,
) -> Result<(Vec<Ready>, Vec<Remark>), PrepareError> {
    let mut remarks = Vec::new();
    let mut models = Vec::new();
    for spec in &args.targets {
        models.push(model(args, plan, spec).await?);
    }
    let words = words(args, plan, &args.targets[0], &models[0], &mut remarks).await?;
    let mut all = Vec::new();
    for (nth, (spec, model)) in args.targets.iter().zip(models).enumerate() {
        let asking = asking(args, model);
        let speaker = speaker(args, plan, (nth, spec), &asking, &words, &mut remarks).await?;
        all.push(Ready { spec: spec.clone(), asking, speaker });
    }
    Ok((all, remarks))
}

async fn model(args: &LoadArgs, plan: &Plan, spec: &TargetSpec) -> Result<String, PrepareError> {
    let name = || spec.name.clone();
    if let Some(model) = &args.model {
        return Ok(model.clone());
    }
    let models = Target::models(spec, &plan.access).await;
    let models = models.map_err(|failure| PrepareError::Target { name: name(), failure })?;
    models.into_iter().next().ok_or_else(|| PrepareError::NoModel { name: name() })
}

fn asking(args: &LoadArgs, model: String) -> Asking {
    Asking {
        model,
        api: args.api,
        temperature: args.requests.temperature,
        ignore_eos: !args.requests.natural_ends,
        timeout: args.connections.timeout,
        declares: !args.goals.silent_slo,
        tenant: args.connections.tenant.clone(),
        resumes: args.faults.resume || !args.faults.chaos.is_empty(),
        extra: args.requests.extra_body.clone().unwrap_or_default(),
    }
}

/// Counted by a tokeniser's file, or by the target, or guessed.
async fn words(
    args: &LoadArgs,
    plan: &Plan,
    spec: &TargetSpec,
    model: &str,
    remarks: &mut Vec<Remark>,
) -> Result<Words, PrepareError> {
    let texts = match &args.requests.tokenizer {
        Some(path) => local_texts(path, &plan.text)?,
        None => match Target::token_texts(spec, &plan.access, model, &plan.text).await {
            Ok(texts) => texts,
            Err(failure) => {
                let said = "the target doesn't tell how it counts tokens, so that prompts are only about as long as they \
                            are to be; --tokenizer takes a file that does";
                remarks.push(Remark(format!("{said} ({failure})")));
                return Ok(Words::guessed(plan.text.clone())?);
            }
        },
    };
    match Words::counted(plan.text.clone(), texts.iter().map(String::as_str)) {
        Err(WordsError::Apart { words, tokens }) => {
            let why = WordsError::Apart { words, tokens };
            remarks
                .push(Remark(format!("{why}; prompts are only about as long as they are to be")));
            Ok(Words::guessed(plan.text.clone())?)
        }
        words => Ok(words?),
    }
}

/// A text's tokens, each as its own text.
fn local_texts(path: &Path, text: &str) -> Result<Vec<String>, PrepareError> {
    let wrong = |why: String| PrepareError::Tokenizer { path: path.display().to_string(), why };
    let file = if path.is_dir() { path.join("tokenizer.json") } else { path.to_owned() };
    let json = std::fs::read_to_string(&file).map_err(|error| wrong(error.to_string()))?;
    let folder = HuggingFace {
        tokenizer: &json,
        settings: None,
        template: None,
        bos: None,
        eos: Vec::new(),
        vocab: 0,
    };
    let assets = folder.assets().map_err(|error| wrong(error.to_string()))?;
    let texts = assets.tokens.clone();
    let model = TextModel::new(assets).map_err(|error| wrong(error.to_string()))?;
    let tokens = model.encode(text).map_err(|error| wrong(error.to_string()))?;
    Ok(tokens
        .into_iter()
        .map(|token| texts.get(token.0 as usize).unwrap_or_default().to_owned())
        .collect())
}

/// How to speak to a target: what it adds to a text is seen in its own counts.
async fn speaker(
    args: &LoadArgs,
    plan: &Plan,
    (nth, spec): (usize, &TargetSpec),
    asking: &Asking,
    words: &Words,
    remarks: &mut Vec<Remark>,
) -> Result<Speaker, PrepareError> {
    let speaker = Speaker {
        words: Arc::new(words.clone()),
        conversations: plan.workload.conversations.clone(),
        api: args.api,
        salt: baton_workload::random::mix(nth as u64) << 1,
        overhead: 0,
    };
    let asking = Asking { timeout: asking.timeout.min(PATIENCE), ..asking.clone() };
    let failed = |failure| PrepareError::Target { name: spec.name.clone(), failure };
    let target = Target::new(spec, &plan.access, asking, 1).map_err(failed)?;
    let mut told = Vec::new();
    for tokens in [SHORT, LONG] {
        match first_token(&target, args.api, words, tokens).await {
            Ok(prompt) => told.push((tokens, prompt)),
            Err(failure) if failure.is_overload() => {
                remarks.push(Remark(format!("{} has no room already: {failure}", spec.name)));
                return Ok(speaker);
            }
            Err(failure) => return Err(failed(failure)),
        }
    }
    let [(short, Some(of_short)), (long, Some(of_long))] = told[..] else {
        remarks.push(Remark(format!("{} doesn't count its prompts' tokens", spec.name)));
        return Ok(speaker);
    };
    let (added, by_more) = (of_short.saturating_sub(short), of_long.saturating_sub(of_short));
    if by_more == long - short {
        return Ok(Speaker { overhead: added, ..speaker });
    }
    if words.is_exact() {
        let said = format!(
            "{} counts {by_more} tokens where its tokeniser's are {}; prompts are only about as long as they are to be",
            spec.name,
            long - short
        );
        remarks.push(Remark(said));
    }
    let scale = f64::from(long - short) / f64::from(by_more.max(1));
    if !SCALES.contains(&scale) {
        let said = format!(
            "{} counts {by_more} tokens more for a text of some {} tokens more, which can't be right; it isn't heeded",
            spec.name,
            long - short
        );
        remarks.push(Remark(said));
        return Ok(speaker);
    }
    Ok(Speaker { words: Arc::new(words.clone().scaled(scale)), ..speaker })
}

/// Asks for one token; tells how many the prompt has.
async fn first_token(
    target: &Target,
    api: Api,
    words: &Words,
    tokens: u32,
) -> Result<Option<u32>, Failure> {
    let prompt = Prompt::new([Segment { content: u64::from(tokens), tokens }]);
    let content = words.write(&prompt, 0, 0);
    debug_assert!(content.starts_with(OPENER), "{api:?}");
    let ask = Ask {
        messages: vec![Message { role: "user", content }],
        output: 1,
        seed: 0,
        class: None,
        objectives: Objectives::default(),
        name: format!("load-check-{tokens}"),
    };
    let window = Window { from: Duration::ZERO, to: Duration::ZERO };
    let recorder = Mutex::new(Recorder::new([Objectives::default()].into(), window));
    let mut heard = Heard::new(&recorder, Instant::now(), Duration::ZERO, 0, false);
    target.ask(ask, &mut heard).await?;
    Ok(heard.prompt_told)
}
