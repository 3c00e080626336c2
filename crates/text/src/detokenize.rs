use std::sync::Arc;

use baton_types::TokenId;

use crate::bytes::TokenBytes;

/// Turns tokens into text as they come, never emitting half a character.
///
/// A token can end inside a UTF-8 sequence; its beginning is held back until the rest comes. Bytes
/// that can't become a character are U+FFFD at once, as in a lossy decoding of the whole.
#[derive(Clone, Debug)]
pub struct Detokenizer {
    table: Arc<TokenBytes>,
    /// At most three bytes: the beginning of a character.
    pending: Vec<u8>,
}

impl Detokenizer {
    pub(crate) fn new(table: Arc<TokenBytes>) -> Self {
        Detokenizer { table, pending: Vec::new() }
    }

    /// The text that became certain with `token`.
    pub fn push(&mut self, token: TokenId) -> String {
        self.pending.extend_from_slice(self.table.token(token.0));
        let mut text = String::new();
        let mut rest = self.pending.as_slice();
        loop {
            match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    rest = &[];
                    break;
                }
                Err(error) => {
                    let (valid, after) = rest.split_at(error.valid_up_to());
                    text.push_str(&String::from_utf8_lossy(valid));
                    rest = after;
                    let Some(bad) = error.error_len() else { break };
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = &rest[bad..];
                }
            }
        }
        self.pending = rest.to_vec();
        text
    }

    /// What is left at the end of the output: half a character becomes U+FFFD.
    pub fn finish(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.pending)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::TextAssets;

    fn detokenizer() -> Detokenizer {
        Detokenizer::new(Arc::new(TokenBytes::new(&TextAssets::bytes())))
    }

    proptest! {
        #[test]
        fn the_pieces_make_the_whole(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let mut detokenizer = detokenizer();
            let mut text: String =
                bytes.iter().map(|&byte| detokenizer.push(TokenId(byte.into()))).collect();
            text.push_str(&detokenizer.finish());
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn half_a_character_waits_for_the_other_half() {
        let mut detokenizer = detokenizer();
        let pieces: Vec<_> =
            "é€".bytes().map(|byte| detokenizer.push(TokenId(byte.into()))).collect();
        assert_eq!(pieces, ["", "é", "", "", "€"]);
        assert_eq!(detokenizer.push(TokenId(256)), "", "a control token shows nothing");
    }
}
