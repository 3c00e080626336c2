//! How often failed requests are tried again, all together.
//!
//! # Why a budget?
//!
//! Each retry is a prompt to be computed again. Where every node fails, or all are full, requests that are tried again
//! and again are load that nobody asked for, and it grows with the trouble. So retries are earned: some by each request
//! that comes, and some by time. Who comes when there is none left waits its turn, the one first whose client is due
//! a token first; nobody is refused for it.

use std::{collections::BTreeSet, time::Duration};

use baton_types::Time;

use crate::Ticket;

/// Of one router.
#[derive(Clone, Debug)]
pub struct RetryBudget {
    per_second: f64,
    per_request: f64,
    /// Retries that have been earned and not had, at most one second's.
    left: f64,
    at: Time,
    waiting: BTreeSet<(Time, Ticket)>,
}

impl RetryBudget {
    /// `per_second` is at least 1.
    pub fn new(per_second: u32, per_request: f64) -> Self {
        let per_second = f64::from(per_second.max(1));
        let (at, waiting) = (Time::ZERO, BTreeSet::new());
        RetryBudget { per_second, per_request, left: per_second, at, waiting }
    }

    /// A request has come.
    pub fn earn(&mut self) {
        self.left = (self.left + self.per_request).min(self.per_second);
    }

    /// Takes a retry for `ticket`, whose client is due a token at `due`; or says how long to wait before it asks
    /// again. It stays in line until it has one, or leaves.
    pub fn take(&mut self, ticket: Ticket, due: Time, now: Time) -> Result<(), Duration> {
        let earned = now.since(self.at).as_secs_f64() * self.per_second;
        self.left = (self.left + earned).min(self.per_second);
        self.at = self.at.max(now);
        self.waiting.insert((due, ticket));
        let before = self.waiting.range(..(due, ticket)).count() as f64;
        let missing = before + 1.0 - self.left;
        if missing <= 0.0 {
            self.left -= 1.0;
            self.leave(ticket, due);
            return Ok(());
        }
        // Rounded up, so that it is there by then.
        Err(Duration::from_secs_f64(missing / self.per_second) + Duration::from_micros(1))
    }

    /// It needs none any more.
    pub fn leave(&mut self, ticket: Ticket, due: Time) {
        self.waiting.remove(&(due, ticket));
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn at(ms: u32) -> Time {
        Time::ZERO + ms * MS
    }

    #[test]
    fn who_is_due_first_goes_first_when_there_is_none_left() {
        let mut budget = RetryBudget::new(2, 0.5);
        let mut take = |ticket, due, now| budget.take(Ticket(ticket), at(due), at(now));
        assert_eq!((take(1, 900, 0), take(2, 900, 0)), (Ok(()), Ok(())), "a second's are there");
        assert!(take(3, 800, 0).is_err() && take(4, 100, 0).is_err());
        assert!(take(3, 800, 600).is_err(), "the other is due before");
        assert_eq!(take(4, 100, 600), Ok(()));
        let wait = take(3, 800, 600).unwrap_err();
        assert!(wait > 390 * MS && wait < 410 * MS, "{wait:?}");
        assert_eq!(take(3, 800, 1001), Ok(()));
    }

    #[test]
    fn requests_that_come_earn_retries() {
        let mut budget = RetryBudget::new(1, 0.25);
        assert_eq!(budget.take(Ticket(1), at(0), at(0)), Ok(()));
        (0..4).for_each(|_| budget.earn());
        assert_eq!(budget.take(Ticket(2), at(0), at(0)), Ok(()));
        assert!(budget.take(Ticket(3), at(0), at(0)).is_err());
        budget.leave(Ticket(3), at(0));
        assert!(budget.waiting.is_empty());
    }

    proptest! {
        /// Whoever asks when, there are never more than were earned; and who waits as long as it was told, with
        /// nobody before it, has one.
        #[test]
        fn no_more_than_were_earned(
            asks in prop::collection::vec((0..200_u32, 0..500_u32, any::<bool>()), 1..200),
            per_second in 1..20_u32,
        ) {
            let mut budget = RetryBudget::new(per_second, 0.1);
            let (mut now, mut had, mut earned) = (0, 0.0, f64::from(per_second));
            for (ticket, (wait, due, comes)) in (0..).zip(asks) {
                now += wait;
                if comes {
                    budget.earn();
                    earned += 0.1;
                }
                had += f64::from(u8::from(budget.take(Ticket(ticket), at(due), at(now)).is_ok()));
                let most = earned + f64::from(now) / 1e3 * f64::from(per_second);
                prop_assert!(had <= most + 1e-6, "{had} of {most}");
            }
            budget.waiting.clear();
            if let Err(wait) = budget.take(Ticket(0), at(0), at(now)) {
                let late = budget.take(Ticket(0), at(0), at(now) + wait);
                prop_assert_eq!(late, Ok(()));
            }
        }
    }
}
