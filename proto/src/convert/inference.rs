//! What clients speak of.

use baton_text::ChatMessage;
use baton_types::{SamplingSpec, TokenId};

use super::{ConvertError, MAX_TOKENS, at_most};
use crate::v1;

/// The most messages in a conversation.
const MAX_MESSAGES: usize = 4096;

/// How to draw, with what the client left open: temperature 1, and `drawn` as the seed. The
/// temperature is as the client gave it; see [`SamplingSpec::validate`].
pub fn sampling(sampling: &v1::Sampling, drawn: u64) -> SamplingSpec {
    SamplingSpec {
        temperature: sampling.temperature.unwrap_or(1.0),
        seed: sampling.seed.unwrap_or(drawn),
    }
}

/// A prompt given as tokens. Whether the model has them is for its tokeniser to say.
pub fn token_ids(tokens: v1::TokenIds) -> Result<Vec<TokenId>, ConvertError> {
    at_most("token_ids", tokens.ids.len(), MAX_TOKENS)?;
    Ok(tokens.ids.into_iter().map(TokenId).collect())
}

/// A conversation.
pub fn messages(messages: Vec<v1::Message>) -> Result<Vec<ChatMessage>, ConvertError> {
    at_most("messages", messages.len(), MAX_MESSAGES)?;
    let message = |v1::Message { role, content }| ChatMessage { role, content };
    Ok(messages.into_iter().map(message).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_open_is_filled_in() {
        let open = v1::Sampling::default();
        assert_eq!(sampling(&open, 7), SamplingSpec { temperature: 1.0, seed: 7 });
        let given = v1::Sampling { temperature: Some(0.0), seed: Some(0), ..open };
        assert_eq!(sampling(&given, 7), SamplingSpec::GREEDY);
    }

    #[test]
    fn conversations_and_prompts_are_bounded() {
        let message = v1::Message { role: "user".to_owned(), content: "hi".to_owned() };
        assert_eq!(messages(vec![message.clone()]).unwrap()[0].content, "hi");
        assert_eq!(messages(vec![message; 5000]).unwrap_err().field(), "messages");
        assert_eq!(token_ids(v1::TokenIds { ids: vec![3] }), Ok(vec![TokenId(3)]));
        assert!(token_ids(v1::TokenIds { ids: vec![0; MAX_TOKENS + 1] }).is_err());
    }
}
