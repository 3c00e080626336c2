//! Conversations as ShareGPT's collections have them.

use std::{fmt, io, io::BufRead};

use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor},
};

use crate::peek;

/// What people and a model said to each other.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversations {
    pub conversations: Vec<Conversation>,
    /// How many more there were without a single turn that has both its sides.
    pub left_out: u64,
}

/// At least one turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conversation {
    pub turns: Vec<Turn>,
}

/// A question and its answer, neither of them blank.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    pub user: String,
    pub assistant: String,
}

#[derive(Debug, thiserror::Error)]
pub enum ConversationError {
    #[error("can't be read: {0}")]
    Read(io::Error),
    /// It tells the line and the column.
    #[error("conversation {conversation}: {source}")]
    Syntax { conversation: u64, source: serde_json::Error },
    #[error(
        "it begins with {given:?}; expected an array of objects like {{\"conversations\": [{{\"from\": \"human\", \
         \"value\": \"…\"}}, …]}}, or one on each line"
    )]
    Format { given: String },
    #[error("none of its {left_out} conversations has both a question and its answer")]
    Empty { left_out: u64 },
}

impl Conversations {
    /// Reads an array of conversations, or one on each line, without holding the text beside the result.
    ///
    /// Messages have the keys `from` and `value` or `role` and `content`; who speaks is `human` or `user`, or
    /// `gpt`, `chatgpt`, `bing`, `bard`, `assistant` or `model`. What others say (`system`, tools), blank messages
    /// and answers before the first question are skipped. Several messages of one side in a row are one, a blank
    /// line between them. A question without an answer at the end is left out.
    pub fn read(input: impl BufRead) -> Result<Conversations, ConversationError> {
        let (line, input) = peek::first_line(input).map_err(ConversationError::Read)?;
        let mut all = Conversations::default();
        let read = match line.chars().next() {
            Some('[') => {
                let mut json = serde_json::Deserializer::from_reader(input);
                json.deserialize_seq(&mut all).and_then(|()| json.end())
            }
            Some('{') => serde_json::Deserializer::from_reader(input)
                .into_iter::<Recorded>()
                .try_for_each(|recorded| recorded.map(|recorded| all.add(recorded))),
            None => Ok(()),
            Some(_) => {
                let given = line.chars().take(120).collect();
                return Err(ConversationError::Format { given });
            }
        };
        let conversation = all.conversations.len() as u64 + all.left_out + 1;
        read.map_err(|source| match source.is_io() {
            true => ConversationError::Read(source.into()),
            false => ConversationError::Syntax { conversation, source },
        })?;
        match all.conversations.is_empty() {
            true => Err(ConversationError::Empty { left_out: all.left_out }),
            false => Ok(all),
        }
    }

    fn add(&mut self, recorded: Recorded) {
        match recorded.turns() {
            turns if turns.is_empty() => self.left_out += 1,
            turns => self.conversations.push(Conversation { turns }),
        }
    }
}

#[derive(Deserialize)]
#[serde(expecting = "an object with the key conversations")]
struct Recorded {
    #[serde(alias = "messages")]
    conversations: Vec<Message>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object with the keys from and value")]
struct Message {
    #[serde(alias = "role")]
    from: String,
    #[serde(alias = "content")]
    value: String,
}

impl Recorded {
    fn turns(self) -> Vec<Turn> {
        let mut turns: Vec<Turn> = Vec::new();
        let mut user = String::new();
        for Message { from, value } in self.conversations {
            if value.trim().is_empty() {
                continue;
            }
            match from.as_str() {
                "human" | "user" => append(&mut user, value),
                "gpt" | "chatgpt" | "bing" | "bard" | "assistant" | "model" => {
                    if !user.is_empty() {
                        turns.push(Turn { user: std::mem::take(&mut user), assistant: value });
                    } else if let Some(last) = turns.last_mut() {
                        append(&mut last.assistant, value);
                    }
                }
                _ => {}
            }
        }
        turns
    }
}

fn append(text: &mut String, more: String) {
    if text.is_empty() {
        *text = more;
    } else {
        text.push_str("\n\n");
        text.push_str(&more);
    }
}

/// Takes an array's conversations one by one, so that a broken one has a number.
impl<'de> Visitor<'de> for &mut Conversations {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of conversations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(recorded) = array.next_element()? {
            self.add(recorded);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
