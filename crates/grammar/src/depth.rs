//! How deep a source nests, before anything recursive reads it.

use crate::GrammarError;

/// Deeper than any real schema or expression, and shallow enough for every thread's stack.
const MAX_DEPTH: usize = 64;

/// Refuses brackets within brackets, however they are meant, beyond the limit.
pub(crate) fn check(source: &str) -> Result<(), GrammarError> {
    let (mut depth, mut deepest) = (0_usize, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    match deepest > MAX_DEPTH {
        true => Err(GrammarError::TooDeep { given: deepest, max: MAX_DEPTH }),
        false => Ok(()),
    }
}
