//! When to try again no more.
//!
//! A node without room has not failed: a request that was turned away by some, waited, found a place and then lost that
//! has failed once. Both are bounded in a row, each for itself.

use std::time::Duration;

/// The first pause before trying again, after the first time; it doubles.
const BACKOFF: Duration = Duration::from_millis(25);
const LONGEST_BACKOFF: Duration = Duration::from_secs(1);
/// Tokens after which an attempt was not in vain.
const PROGRESS: u32 = 16;

/// How often in a row a request was tried in vain.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tries {
    /// Attempts that failed,
    failed: u32,
    /// and how many tokens there were when the last one did.
    failed_at: u32,
    /// Attempts that found no room.
    refused: u32,
}

impl Tries {
    /// There are so many tokens now: whatever has room gave one of them.
    pub(super) fn progressed(&mut self, tokens: u32) {
        self.refused = 0;
        if tokens >= self.failed_at + PROGRESS {
            self.failed = 0;
        }
    }

    /// One more, with so many tokens. How often it was so in a row.
    pub(super) fn in_vain(&mut self, found_no_room: bool, tokens: u32) -> u32 {
        if found_no_room {
            self.refused += 1;
            return self.refused;
        }
        self.failed_at = tokens;
        self.failed += 1;
        self.failed
    }
}

/// Before a request is tried again that was in vain so often in a row.
pub(super) fn pause(in_vain: u32) -> Option<Duration> {
    let doublings = in_vain.checked_sub(2)?;
    Some((BACKOFF * 2_u32.pow(doublings.min(8))).min(LONGEST_BACKOFF))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn being_turned_away_is_no_failure() {
        let mut tries = Tries::default();
        assert_eq!([1, 2, 3, 4, 5], std::array::from_fn(|_| tries.in_vain(true, 0)));
        tries.progressed(1);
        assert_eq!(tries.in_vain(false, 1), 1);
        assert_eq!(tries.in_vain(true, 1), 1);
        assert_eq!(tries.in_vain(false, 1), 2);
    }

    #[test]
    fn an_attempt_that_gave_some_tokens_was_not_in_vain() {
        let mut tries = Tries::default();
        assert_eq!([1, 2], std::array::from_fn(|_| tries.in_vain(false, 10)));
        tries.progressed(10 + PROGRESS - 1);
        assert_eq!(tries.in_vain(false, 20), 3);
        tries.progressed(20 + PROGRESS);
        assert_eq!(tries.in_vain(false, 40), 1);
    }

    #[test]
    fn pauses_double_up_to_a_second() {
        assert_eq!((pause(1), pause(2)), (None, Some(BACKOFF)));
        assert_eq!((pause(4), pause(40)), (Some(4 * BACKOFF), Some(LONGEST_BACKOFF)));
    }
}
