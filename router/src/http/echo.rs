use std::{borrow::Cow, sync::Arc};

use baton_types::{TokenId, TokenLogprobs};

use super::logprobs::Told;
use crate::request::Answer;

/// The prompt as part of the answer.
pub(super) struct Echo {
    text: String,
    tokens: Arc<[TokenId]>,
    /// Of its tokens but the first, once they are known.
    logprobs: Vec<TokenLogprobs>,
}

impl Echo {
    /// Of each prompt.
    pub(super) fn all(answer: &Answer) -> Vec<Self> {
        let echo = |tokens: &Arc<[TokenId]>| Echo {
            text: answer.text.decode(tokens),
            tokens: Arc::clone(tokens),
            logprobs: Vec::new(),
        };
        answer.prompts.iter().map(echo).collect()
    }

    /// The first chunk has them, if they were asked for.
    pub(super) fn hear(&mut self, logprobs: Vec<TokenLogprobs>) {
        if !logprobs.is_empty() {
            self.logprobs = logprobs;
        }
    }

    /// `text` and what is told about it, with the prompt before them.
    pub(super) fn before<'a>(
        echo: Option<&'a Echo>,
        text: &'a str,
        told: Told<'a>,
    ) -> (Cow<'a, str>, Told<'a>) {
        match echo {
            Some(echo) => {
                let whole = format!("{}{text}", echo.text);
                (whole.into(), told.after(&echo.tokens, &echo.logprobs))
            }
            None => (text.into(), told),
        }
    }
}
