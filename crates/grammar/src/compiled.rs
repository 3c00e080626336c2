use std::{
    fmt,
    sync::{Mutex, PoisonError},
};

use baton_types::{Constraint, ConstraintError, TokenId, TokenMask};
use llguidance::Matcher;

use crate::vocabulary::first_line;

/// A grammar and how far a sequence has come in it.
pub struct Compiled {
    state: Mutex<State>,
}

struct State {
    matcher: Matcher,
    /// Tokens of the output it has seen.
    seen: usize,
}

impl Compiled {
    pub(crate) fn new(matcher: Matcher) -> Self {
        Compiled { state: Mutex::new(State { matcher, seen: 0 }) }
    }
}

impl Constraint for Compiled {
    fn allowed(&self, output: &[TokenId], mask: &mut TokenMask) -> Result<(), ConstraintError> {
        // A panic in the library is caught there, and leaves an error in the matcher.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state
            .allowed(output, mask)
            .map_err(|error| ConstraintError { emitted: output.len(), why: first_line(&error) })
    }
}

impl State {
    fn allowed(&mut self, output: &[TokenId], mask: &mut TokenMask) -> Result<(), String> {
        let told = |error: &dyn fmt::Display| error.to_string();
        if output.len() < self.seen {
            self.matcher.reset().map_err(|error| told(&error))?;
            self.seen = 0;
        }
        let new: Vec<u32> = output[self.seen..].iter().map(|token| token.0).collect();
        self.matcher.consume_tokens(&new).map_err(|error| told(&error))?;
        self.seen = output.len();
        let allowed = self.matcher.compute_mask_or_eos().map_err(|error| told(&error))?;
        if allowed.is_zero() {
            return Err("no token of the vocabulary fits".to_owned());
        }
        mask.copy_from(allowed.as_slice());
        Ok(())
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seen = self.state.lock().unwrap_or_else(PoisonError::into_inner).seen;
        f.debug_struct("Compiled").field("seen", &seen).finish_non_exhaustive()
    }
}
