//! Between text and tokens: tokeniser, chat template, detokeniser, stop strings. No tensors, so
//! that a router needn't link an engine.
//!
//! # Can a user's text contain control tokens?
//!
//! In a chat, no: only the template's own text is searched for control tokens, and whatever looks
//! like one inside a message is tokenised as plain text. In a raw completion, yes: its author
//! writes the whole prompt, control tokens included.

mod assets;
mod bpe;
mod bytes;
mod calls;
mod chat;
mod detokenize;
mod hugging_face;
mod model;
mod output;
mod pieces;
mod pre;
mod stop;
mod template;
mod texts;
mod tools;

pub use assets::{SpacePrefix, TextAssets, TokenizerKind};
pub use calls::{CallPiece, CallSplitter, Split};
pub use chat::{Chat, ChatMessage, Tool, ToolCall, ToolChoice};
pub use detokenize::Detokenizer;
pub use hugging_face::{AssetsError, HuggingFace};
pub use model::{TextError, TextModel};
pub use output::{OutputText, Shown};
pub use pieces::merges_of_scores;
pub use stop::{Matched, StopError, StopMatcher};
pub use texts::Texts;
pub use tools::Calling;
