//! Structured output: which tokens a grammar leaves at each place, on a model's vocabulary.
//!
//! llguidance does the parsing: JSON schemas, regular expressions and context-free grammars, over
//! the bytes that tokens stand for.
//!
//! # How does it survive a hand-over?
//!
//! A [`Compiled`] grammar is told a sequence's output at every step and consumes what it hasn't
//! seen. Wherever the sequence begins anew (another node, a replay, a preemption) it has seen
//! nothing, and consumes it all: its state is a function of grammar and token ids.
//!
//! # What if there are several?
//!
//! An output that may match any of some grammars is followed through each of them, until it doesn't
//! fit any more; the masks of those that are left are put together. They aren't made one grammar:
//! in llguidance's, names could clash, and what one takes for a longer token would be closed to the
//! others.
//!
//! # What does a request wait for?
//!
//! For its grammar: a millisecond or so, less if it was compiled lately. The vocabulary takes some
//! hundreds; whoever serves a model has [`Grammars::prepare`] read it in the background.
//!
//! # What may a grammar cost?
//!
//! A bounded amount: its source is bounded, and so are its nesting, the parser's tables and the
//! work of each step. What exceeds that is refused, or ends its own sequence.

mod cache;
mod compiled;
mod depth;
mod grammars;
mod vocabulary;

pub use compiled::Compiled;
pub use grammars::Grammars;
pub use vocabulary::Vocabulary;

/// Why a grammar can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    #[error("the model has no end-of-sequence token, so no grammar could ever end")]
    NoEnd,
    #[error("the vocabulary can't be parsed over: {why}")]
    Vocabulary { why: String },
    #[error("the schema is no JSON: {why}")]
    Json { why: String },
    #[error("it has {given} bytes; at most {max} are allowed")]
    TooLong { given: usize, max: usize },
    #[error("it is nested {given} deep; at most {max} are allowed")]
    TooDeep { given: usize, max: usize },
    #[error("{why}")]
    Refused { why: String },
}
