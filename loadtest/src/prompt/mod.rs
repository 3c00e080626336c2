//! What users say.

mod words;

use std::sync::Arc;

use baton_workload::Conversation;

pub(crate) use self::words::{OPENER, TEXT, Words, WordsError, flat};
use crate::{
    schedule::{Say, Turn},
    target::{Api, Message},
};

/// Puts what is to be said into words, for one target.
#[derive(Clone, Debug)]
pub(crate) struct Speaker {
    pub words: Arc<Words>,
    pub conversations: Option<Arc<Vec<Conversation>>>,
    pub api: Api,
    /// Each target gets words of its own: one of several ways to the same server would find the others' prompts in its
    /// cache.
    pub salt: u64,
    /// Tokens of a prompt that aren't the text's: the server's template, the opener.
    pub overhead: u32,
}

/// One turn in words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Spoken {
    pub text: String,
    /// Of the whole prompt, if it was to have a certain number.
    pub prompt_tokens: Option<u32>,
    pub output: u32,
}

impl Speaker {
    /// What a turn says behind so many others.
    pub(crate) fn speak(&self, turn: &Turn, before: usize) -> Spoken {
        match &turn.said {
            Say::Tokens(prompt) => {
                let is_first = before == 0;
                let mut text =
                    self.words.write(prompt, self.salt, if is_first { self.overhead } else { 0 });
                if !is_first && self.api == Api::Completions {
                    text.drain(..OPENER.len());
                }
                let is_known = is_first && self.words.is_exact() && prompt.len() >= self.overhead;
                Spoken { text, prompt_tokens: is_known.then(|| prompt.len()), output: turn.output }
            }
            Say::Recorded(which, nth) => {
                let recorded =
                    self.conversations.as_ref().and_then(|all| all.get(*which)?.turns.get(*nth));
                let (user, assistant) =
                    recorded.map_or(("", ""), |turn| (&turn.user, &turn.assistant));
                let output = self.words.estimate(assistant);
                Spoken { text: user.to_owned(), prompt_tokens: None, output }
            }
        }
    }

    /// The messages that ask for the next answer.
    pub(crate) fn user(&self, text: String) -> Message {
        Message { role: "user", content: text }
    }
}
