use std::{
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

use baton_types::{Constraint, ConstraintError, TokenId, TokenMask};
use llguidance::{Matcher, toktrie::SimpleVob};

use crate::vocabulary::first_line;

/// A grammar and how far a sequence has come in it.
pub struct Compiled {
    state: Mutex<State>,
}

struct State {
    alternatives: Vec<Alternative>,
    /// Tokens of the output they have seen.
    seen: usize,
}

/// One of the grammars that the output may match. They go on side by side: what may follow is what
/// any of those may be followed by that the output still fits.
struct Alternative {
    matcher: Matcher,
    fits: bool,
}

impl Compiled {
    pub(crate) fn new(matchers: Vec<Matcher>) -> Self {
        let alternative = |matcher| Alternative { matcher, fits: true };
        let alternatives = matchers.into_iter().map(alternative).collect();
        Compiled { state: Mutex::new(State { alternatives, seen: 0 }) }
    }

    /// The same for another sequence. It shares nothing with this one; this must have seen nothing.
    pub(crate) fn copy(&self) -> Self {
        let state = self.lock();
        debug_assert_eq!(state.seen, 0, "a grammar is copied before it is used");
        Compiled::new(state.alternatives.iter().map(|one| one.matcher.deep_clone()).collect())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic in the library is caught there, and leaves an error in the matcher.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Constraint for Compiled {
    fn allowed(&self, output: &[TokenId], mask: &mut TokenMask) -> Result<(), ConstraintError> {
        self.lock()
            .allowed(output, mask)
            .map_err(|error| ConstraintError { emitted: output.len(), why: first_line(&error) })
    }
}

impl State {
    fn allowed(&mut self, output: &[TokenId], mask: &mut TokenMask) -> Result<(), String> {
        if output.len() < self.seen {
            self.alternatives.iter_mut().try_for_each(Alternative::restart)?;
            self.seen = 0;
        }
        let new: Vec<u32> = output[self.seen..].iter().map(|token| token.0).collect();
        let mut union: Option<SimpleVob> = None;
        for alternative in &mut self.alternatives {
            let Some(allowed) = alternative.allowed(&new)? else { continue };
            match &mut union {
                Some(union) => union.or(&allowed),
                None => union = Some(allowed),
            }
        }
        self.seen = output.len();
        let allowed = union.ok_or("the output is not what it asks for")?;
        if allowed.is_zero() {
            return Err("no token of the vocabulary fits".to_owned());
        }
        mask.copy_from(allowed.as_slice());
        Ok(())
    }
}

impl Alternative {
    fn restart(&mut self) -> Result<(), String> {
        self.fits = true;
        self.matcher.reset().map_err(|error| error.to_string())
    }

    /// What may come after the `new` tokens, if they fit.
    fn allowed(&mut self, new: &[u32]) -> Result<Option<SimpleVob>, String> {
        if !self.fits {
            return Ok(None);
        }
        let told = |error: &dyn fmt::Display| error.to_string();
        let taken = self.matcher.try_consume_tokens(new).map_err(|error| told(&error))?;
        self.fits = taken == new.len();
        if !self.fits {
            return Ok(None);
        }
        self.matcher.compute_mask_or_eos().map(Some).map_err(|error| told(&error))
    }
}

impl fmt::Debug for Compiled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.lock();
        f.debug_struct("Compiled")
            .field("alternatives", &state.alternatives.len())
            .field("seen", &state.seen)
            .finish_non_exhaustive()
    }
}
