use std::{
    fmt,
    sync::{Arc, OnceLock},
};

use baton_text::{TextAssets, TextModel};
use baton_types::{Constraint, Grammar, TokenMask};

use crate::{Compiled, GrammarError, Vocabulary};

/// One model's grammars. Its vocabulary is read when the first of them comes: most requests have
/// none.
pub struct Grammars {
    language: Language,
    vocabulary: OnceLock<Result<Vocabulary, GrammarError>>,
}

enum Language {
    Read(Arc<TextModel>),
    Raw(Box<TextAssets>),
}

impl Grammars {
    pub fn new(text: Arc<TextModel>) -> Self {
        Grammars { language: Language::Read(text), vocabulary: OnceLock::new() }
    }

    /// For who has no use for the language otherwise.
    pub fn of_assets(assets: TextAssets) -> Self {
        Grammars { language: Language::Raw(Box::new(assets)), vocabulary: OnceLock::new() }
    }

    /// Refuses a grammar that doesn't compile, or has no beginning: one that is nothing but itself.
    pub fn check(&self, grammar: &Grammar) -> Result<(), GrammarError> {
        let beginning = self.compile(grammar)?.allowed(&[], &mut TokenMask::default());
        beginning.map_err(|error| GrammarError::Refused { why: error.why })
    }

    /// Compiles a grammar. Takes milliseconds, the first time some tens of them: not for a thread
    /// that others wait for.
    pub fn compile(&self, grammar: &Grammar) -> Result<Compiled, GrammarError> {
        let vocabulary = self.vocabulary.get_or_init(|| match &self.language {
            Language::Read(text) => Vocabulary::new(text),
            Language::Raw(assets) => {
                let text = TextModel::new((**assets).clone())
                    .map_err(|error| GrammarError::Vocabulary { why: error.to_string() })?;
                Vocabulary::new(&text)
            }
        });
        vocabulary.as_ref().map_err(GrammarError::clone)?.compile(grammar)
    }
}

impl fmt::Debug for Grammars {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grammars").finish_non_exhaustive()
    }
}
