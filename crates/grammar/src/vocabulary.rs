use std::{fmt, sync::Arc};

use baton_text::TextModel;
use baton_types::{Grammar, TokenId};
use llguidance::{
    Matcher, ParserFactory,
    api::TopLevelGrammar,
    toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie},
};

use crate::{Compiled, GrammarError, depth};

/// Work for the tables of one grammar's tokens, in the library's units: a few tens of
/// milliseconds.
const COMPILE_FUEL: u64 = 1_000_000;
/// Symbols of a grammar's productions.
const MAX_SYMBOLS: usize = 100_000;
/// States of its lexer, a kilobyte or two each.
const MAX_LEXER_STATES: usize = 20_000;

/// One model's tokens as grammars see them. Immutable; made once for each model.
pub struct Vocabulary {
    factory: ParserFactory,
}

impl Vocabulary {
    pub fn new(text: &TextModel) -> Result<Self, GrammarError> {
        Self::of_words(&text.words().collect::<Vec<_>>(), &text.eos().0)
    }

    /// Of tokens as [`TextModel::words`] gives them, some of which end an answer. Takes some tens of milliseconds for
    /// a large vocabulary.
    pub fn of_words(words: &[Vec<u8>], ends: &[TokenId]) -> Result<Self, GrammarError> {
        let refuse = |error: &dyn fmt::Display| GrammarError::Vocabulary { why: error.to_string() };
        let ends: Vec<u32> = ends.iter().map(|token| token.0).collect();
        let Some(&end) = ends.first() else { return Err(GrammarError::NoEnd) };
        if let Some(word) = words.iter().find(|word| word.len() > MAX_WORD) {
            return Err(refuse(&format!("a token of {} bytes", word.len())));
        }
        let trie = TokTrie::from(&TokRxInfo::new(words.len() as u32, end), words);
        let env: TokEnv = Arc::new(ApproximateTokEnv::new(trie.with_eos_tokens(&ends)));
        let slices = llguidance::earley::SlicedBiasComputer::general_slices();
        let capabilities = InferenceCapabilities::default();
        let mut factory =
            ParserFactory::new(&env, capabilities, &slices).map_err(|e| refuse(&e))?;
        factory.quiet();
        let limits = factory.limits_mut();
        limits.initial_lexer_fuel = COMPILE_FUEL;
        limits.max_grammar_size = MAX_SYMBOLS;
        limits.max_lexer_states = MAX_LEXER_STATES;
        limits.verbose_errors = false;
        Ok(Vocabulary { factory })
    }

    /// Compiles a grammar. Takes milliseconds, bounded as the crate says.
    pub fn compile(&self, grammar: &Grammar) -> Result<Compiled, GrammarError> {
        let mut matchers = Vec::new();
        self.matchers(grammar, &mut matchers)?;
        Ok(Compiled::new(matchers))
    }

    fn matchers(&self, grammar: &Grammar, out: &mut Vec<Matcher>) -> Result<(), GrammarError> {
        let parsed = match grammar {
            Grammar::AnyOf(grammars) => {
                return grammars.iter().try_for_each(|grammar| self.matchers(grammar, out));
            }
            Grammar::JsonSchema(source) => TopLevelGrammar::from_json_schema(
                serde_json::from_str(bounded(source)?)
                    .map_err(|error| GrammarError::Json { why: error.to_string() })?,
            ),
            Grammar::Regex(source) => TopLevelGrammar::from_regex(bounded(source)?),
            Grammar::Lark(source) => TopLevelGrammar::from_lark(bounded(source)?.to_owned()),
        };
        let matcher = Matcher::new(self.factory.create_parser(parsed));
        if let Some(error) = matcher.get_error() {
            return Err(GrammarError::Refused { why: first_line(&error) });
        }
        out.push(matcher);
        Ok(())
    }
}

/// A source that is neither too long nor too deep.
fn bounded(source: &str) -> Result<&str, GrammarError> {
    let (given, max) = (source.len(), Grammar::MAX_BYTES);
    if given > max {
        return Err(GrammarError::TooLong { given, max });
    }
    depth::check(source)?;
    Ok(source)
}

/// The longest token the library's tables hold, in bytes.
const MAX_WORD: usize = 1 << 10;

/// The library's errors quote what they were about at length.
pub(crate) fn first_line(error: &str) -> String {
    let line = error.lines().find(|line| !line.trim().is_empty()).unwrap_or("it is unusable");
    line.chars().take(300).collect()
}

impl fmt::Debug for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vocabulary").finish_non_exhaustive()
    }
}
