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
