use std::{
    fmt,
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

use baton_text::{TextAssets, TextModel};
use baton_types::{Constraint, Grammar, TokenMask};

use crate::{Compiled, GrammarError, Vocabulary, cache::Cache};

/// One model's grammars. Its vocabulary is read once: when it is prepared, or when the first of
/// them comes.
pub struct Grammars {
    language: Language,
    vocabulary: OnceLock<Result<Vocabulary, GrammarError>>,
    cache: Mutex<Cache>,
}

enum Language {
    Read(Arc<TextModel>),
    Raw(Arc<TextAssets>),
}

impl Grammars {
    pub fn new(text: Arc<TextModel>) -> Self {
        Grammars::of(Language::Read(text))
    }

    /// For who has no use for the language otherwise.
    pub fn of_assets(assets: Arc<TextAssets>) -> Self {
        Grammars::of(Language::Raw(assets))
    }

    fn of(language: Language) -> Self {
        Grammars { language, vocabulary: OnceLock::new(), cache: Mutex::default() }
    }

    /// Reads the vocabulary, so that no grammar has to wait for it. One that comes meanwhile waits
    /// for this. Takes some hundreds of milliseconds.
    pub fn prepare(&self) {
        let _told_to_who_needs_it = self.vocabulary();
    }

    /// About what the vocabulary takes once it is read.
    pub fn tables_bytes(&self) -> u64 {
        const PER_TOKEN: u64 = 400;
        let tokens = match &self.language {
            Language::Read(text) => text.vocab() as u64,
            Language::Raw(assets) => assets.tokens.len() as u64,
        };
        PER_TOKEN * tokens
    }

    /// Refuses a grammar that doesn't compile, or has no beginning: one that is nothing but itself.
    pub fn check(&self, grammar: &Grammar) -> Result<(), GrammarError> {
        let beginning = self.compile(grammar)?.allowed(&[], &mut TokenMask::default());
        beginning.map_err(|error| GrammarError::Refused { why: error.why })
    }

    /// Compiles a grammar, or copies it if it was compiled lately. Takes milliseconds, more before
    /// the vocabulary is read: not for a thread that others wait for.
    pub fn compile(&self, grammar: &Grammar) -> Result<Compiled, GrammarError> {
        if let Some(copy) = self.cache().copy(grammar) {
            return Ok(copy);
        }
        let compiled = self.vocabulary()?.compile(grammar)?;
        self.cache().keep(grammar, compiled.copy());
        Ok(compiled)
    }

    fn vocabulary(&self) -> Result<&Vocabulary, GrammarError> {
        let vocabulary = self.vocabulary.get_or_init(|| match &self.language {
            Language::Read(text) => Vocabulary::new(text),
            Language::Raw(assets) => Vocabulary::of_words(&assets.words(), &assets.eos),
        });
        vocabulary.as_ref().map_err(GrammarError::clone)
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}
