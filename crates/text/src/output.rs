use baton_types::TokenId;

use crate::{detokenize::Detokenizer, stop::StopMatcher};

/// One choice's output: tokens in, text out. Rebuilt after a replay by pushing the same ids.
#[derive(Clone, Debug)]
pub struct OutputText {
    detokenizer: Detokenizer,
    stop: StopMatcher,
}

/// What one token adds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Text that became certain: it can lag behind by half a character or by what may be the
    /// beginning of a stop string.
    pub text: String,
    /// A stop string was found; the output has ended.
    pub stopped: bool,
}

impl OutputText {
    pub(crate) fn new(detokenizer: Detokenizer, stop: StopMatcher) -> Self {
        OutputText { detokenizer, stop }
    }

    pub fn push(&mut self, token: TokenId) -> Shown {
        let matched = self.stop.push(&self.detokenizer.push(token));
        Shown { text: matched.text, stopped: matched.stopped }
    }

    /// The rest, at the end of the output.
    pub fn finish(&mut self) -> Shown {
        let matched = self.stop.push(&self.detokenizer.finish());
        let rest = if matched.stopped { String::new() } else { self.stop.finish() };
        Shown { text: matched.text + &rest, stopped: matched.stopped }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{TextAssets, TextModel};

    fn output(stops: &[String]) -> OutputText {
        let model = TextModel::new(TextAssets::bytes()).expect("a usable model");
        model.output(stops.to_vec()).expect("good stop strings")
    }

    /// What is shown of `tokens` until the output ends.
    fn shown(output: &mut OutputText, tokens: &[TokenId]) -> (String, bool) {
        let mut text = String::new();
        for &token in tokens {
            let shown = output.push(token);
            text.push_str(&shown.text);
            if shown.stopped {
                return (text, true);
            }
        }
        (text, false)
    }

    prop_compose! {
        /// Bytes that make and break characters and stop strings.
        fn tokens()(
            bytes in prop::collection::vec(
                prop::sample::select(b"ab\xc3\xa9\xe2\x82\xac".as_slice()), 0..40,
            ),
        ) -> Vec<TokenId> {
            bytes.into_iter().map(|byte| TokenId(byte.into())).collect()
        }
    }

    proptest! {
        /// `exact-stream`: rebuilt from ids at any point, the output goes on as if nothing had been.
        #[test]
        fn rebuilt_from_ids_equals_incremental(
            tokens in tokens(),
            stops in prop::collection::vec("[abé€]{1,3}", 0..3),
            at in 0..40_usize,
        ) {
            let (before, after) = tokens.split_at(at.min(tokens.len()));
            let (mut first, mut rebuilt) = (output(&stops), output(&stops));
            let one = shown(&mut first, before);
            prop_assert_eq!(&one, &shown(&mut rebuilt, before));
            if !one.1 {
                prop_assert_eq!(shown(&mut first, after), shown(&mut rebuilt, after));
                prop_assert_eq!(first.finish(), rebuilt.finish());
            }
        }

        /// Piece by piece it shows what the whole decodes to, up to the first stop string.
        #[test]
        fn the_pieces_make_the_whole(
            tokens in tokens(),
            stops in prop::collection::vec("[abé€]{1,3}", 0..3),
        ) {
            let mut output = output(&stops);
            let (mut text, stopped) = shown(&mut output, &tokens);
            if !stopped {
                text.push_str(&output.finish().text);
            }
            let bytes: Vec<u8> = tokens.iter().map(|token| token.0 as u8).collect();
            let whole = String::from_utf8_lossy(&bytes);
            prop_assert!(whole.starts_with(&text));
            prop_assert!(stops.iter().all(|stop| !text.contains(stop)));
            prop_assert_eq!(stopped || stops.iter().any(|stop| whole.contains(stop)), text != whole);
        }
    }

    #[test]
    fn a_stop_string_may_end_in_a_character_that_never_came() {
        let mut output = output(&["a\u{FFFD}".to_owned()]);
        assert_eq!(
            shown(&mut output, &[TokenId(b'a'.into()), TokenId(0xc3)]),
            (String::new(), false)
        );
        assert_eq!(output.finish(), Shown { text: String::new(), stopped: true });
    }
}
