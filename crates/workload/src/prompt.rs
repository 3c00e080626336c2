use baton_types::TokenId;

use crate::random::mix;

/// What a prompt says, without the words: pieces that are equal have equal tokens. So prompts with
/// the same leading segments share a prefix, and the production block hashes find it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Prompt {
    segments: Vec<Segment>,
    len: u32,
}

/// A run of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Names what it says.
    pub content: u64,
    pub tokens: u32,
}

impl Prompt {
    pub fn new(segments: impl IntoIterator<Item = Segment>) -> Self {
        let segments: Vec<Segment> = segments.into_iter().filter(|s| s.tokens > 0).collect();
        let len = segments.iter().map(|segment| segment.tokens).sum();
        Prompt { segments, len }
    }

    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// In tokens.
    pub fn len(&self) -> u32 {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Cuts the end off beyond `tokens`.
    pub fn truncate(&mut self, tokens: u32) {
        let mut left = tokens;
        for segment in &mut self.segments {
            segment.tokens = segment.tokens.min(left);
            left -= segment.tokens;
        }
        self.segments.retain(|segment| segment.tokens > 0);
        self.len = self.len.min(tokens);
    }

    /// Appends its tokens, of a vocabulary of `vocab`. The highest id is never among them.
    pub fn write_tokens(&self, vocab: u32, tokens: &mut Vec<TokenId>) {
        for segment in &self.segments {
            let base = mix(segment.content);
            let token = |index: u32| word(base.wrapping_add(u64::from(index)), vocab);
            tokens.extend((0..segment.tokens).map(token));
        }
    }
}

/// A token for `value` that is not the vocabulary's last.
pub fn word(value: u64, vocab: u32) -> TokenId {
    let words = u64::from(vocab.max(2) - 1);
    TokenId(((u128::from(mix(value)) * u128::from(words)) >> 64) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_beginnings_are_equal_tokens_and_others_are_not() {
        let prompt = |contents: &[u64]| {
            let segment = |&content| Segment { content, tokens: 512 };
            let mut tokens = Vec::new();
            Prompt::new(contents.iter().map(segment)).write_tokens(1000, &mut tokens);
            tokens
        };
        let (a, b) = (prompt(&[1, 2, 3]), prompt(&[1, 2, 4]));
        assert_eq!(a[..1024], b[..1024]);
        assert_ne!(a[1024..1040], b[1024..1040]);
        assert!(a.iter().all(|token| token.0 < 999), "the last id ends outputs");
    }
}
