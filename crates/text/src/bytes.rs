//! Tokenisers write bytes and spaces as other characters; this is the way back.

use crate::{
    assets::{
        TYPE_BYTE, TYPE_CONTROL, TYPE_NORMAL, TYPE_UNKNOWN, TYPE_UNUSED, TextAssets, TokenizerKind,
    },
    bpe::SPACE,
};

/// What each token stands for in the output: bytes, one after another.
#[derive(Debug)]
pub(crate) struct TokenBytes {
    bytes: Vec<u8>,
    /// Token `i` is `bytes[ends[i-1]..ends[i]]`.
    ends: Vec<u32>,
}

impl TokenBytes {
    pub(crate) fn new(assets: &TextAssets) -> Self {
        let mut table = TokenBytes { bytes: Vec::new(), ends: Vec::new() };
        match assets.kind {
            TokenizerKind::Bytes => {
                (0..=255_u8).for_each(|byte| table.push(&[byte]));
                // The one that ends a sequence.
                table.push(&[]);
            }
            TokenizerKind::ByteBpe => {
                for (index, token) in assets.tokens.iter().enumerate() {
                    match assets.token_type(index) {
                        TYPE_NORMAL => table.push(&decode(token)),
                        TYPE_CONTROL => table.push(&[]),
                        _ => table.push(token.as_bytes()),
                    }
                }
            }
            TokenizerKind::SentencePiece => {
                for (index, token) in assets.tokens.iter().enumerate() {
                    match assets.token_type(index) {
                        TYPE_BYTE => table.push(byte_of(token).as_slice()),
                        TYPE_CONTROL | TYPE_UNUSED => table.push(&[]),
                        TYPE_UNKNOWN => table.push(UNKNOWN.as_bytes()),
                        _ => table.push(token.replace(SPACE, " ").as_bytes()),
                    }
                }
            }
        }
        table
    }

    /// Empty for control tokens and for ids outside the vocabulary.
    pub(crate) fn token(&self, token: u32) -> &[u8] {
        let index = token as usize;
        let Some(&end) = self.ends.get(index) else { return &[] };
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.bytes[start as usize..end as usize]
    }

    pub(crate) fn len(&self) -> usize {
        self.ends.len()
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.ends.push(self.bytes.len() as u32);
    }
}

/// What SentencePiece shows for what it doesn't know.
const UNKNOWN: &str = " \u{2047} ";

/// The byte that `<0x41>` stands for.
pub(crate) fn byte_of(token: &str) -> Option<u8> {
    let hex = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (hex.len() == 2).then(|| u8::from_str_radix(hex, 16).ok()).flatten()
}

/// Printable characters stand for themselves; the other bytes, in order, for 256 and up (GPT-2).
fn decode(token: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(token.len());
    for c in token.chars() {
        match u32::from(c) {
            code @ (33..=126 | 161..=172 | 174..=255) => out.push(code as u8),
            code @ 256..=288 => out.push((code - 256) as u8),
            code @ 289..=322 => out.push((code - 289 + 127) as u8),
            323 => out.push(173),
            _ => {
                let mut utf8 = [0; 4];
                out.extend_from_slice(c.encode_utf8(&mut utf8).as_bytes());
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_has_its_character() {
        let printable = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let mut next = 256;
        for byte in 0..=255_u8 {
            let code = if printable(&byte) { u32::from(byte) } else { next };
            next += u32::from(!printable(&byte));
            let c = char::from_u32(code).expect("a character");
            assert_eq!(decode(&c.to_string()), [byte], "{c:?}");
        }
    }
}
