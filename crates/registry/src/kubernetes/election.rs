//! Who leads: decided over one record that all candidates read, and that is written only by who read it last.
//!
//! # Why is there never more than one?
//!
//! A candidate takes the record over when it has been as it is for a whole lease, by the candidate's own clock and
//! since the candidate itself saw it so. Its holder leads for two thirds of a lease after it *asked* for its last
//! renewal, by its own clock. Whoever sees a renewal sees it after it was asked for, so the holder has stopped before
//! anybody else begins, if the clocks' rates differ by less than a third. No instant is compared with another
//! machine's: what the record says of time is for people.
//!
//! A record that isn't there may have been deleted under a holder who doesn't know yet. So whoever makes a new one
//! leads no sooner than others could: when it has been as it is for a lease. That makes the first leader of a new
//! cluster wait, who is needed for nothing sooner. A record that says that nobody holds it was released by a holder
//! that had stopped before, and may be taken at once.
//!
//! What was asked for and never answered may have been done: it only makes everybody wait longer, also who asked.

use std::time::Duration;

use baton_types::Time;

/// The record, as much of it as matters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Record {
    /// Another one for each time it was written.
    pub(super) version: String,
    /// None: it was released.
    pub(super) holder: Option<String>,
    /// How long its holder may count on it, where that is said.
    pub(super) lease: Option<Duration>,
}

/// What to write: the candidate's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// The version that it replaces, and no other. None: there is no record yet, and this one grants nothing.
    pub(super) over: Option<String>,
}

/// One candidate.
#[derive(Debug)]
pub(super) struct Election {
    name: String,
    lease: Duration,
    seen: Option<Seen>,
    /// Whether `seen` may not be what is there.
    in_doubt: bool,
    /// It leads so long.
    until: Time,
}

#[derive(Debug)]
struct Seen {
    record: Option<Record>,
    /// Since when it has been so.
    since: Time,
    /// How long nobody else may take it from then on.
    lease: Duration,
}

impl Election {
    pub(super) fn new(name: String, lease: Duration) -> Self {
        Election { name, lease, seen: None, in_doubt: true, until: Time::ZERO }
    }

    /// How long a holder leads after it asked for what was granted.
    pub(super) fn term(lease: Duration) -> Duration {
        lease * 2 / 3
    }

    pub(super) fn leads(&self, now: Time) -> bool {
        now < self.until
    }

    /// When it ceases to lead, unless something is granted before.
    pub(super) fn until(&self) -> Time {
        self.until
    }

    /// Whether to read the record before anything else. Nobody writes while this one leads, so it needn't.
    pub(super) fn should_read(&self, now: Time) -> bool {
        self.in_doubt || !self.leads(now)
    }

    /// The record was read, and this is it.
    pub(super) fn read(&mut self, now: Time, record: Option<Record>) {
        self.in_doubt = false;
        if record.as_ref().is_none_or(|record| record.holder.as_ref() != Some(&self.name)) {
            self.until = Time::ZERO;
        }
        let version =
            |record: &Option<Record>| record.as_ref().map(|record| record.version.clone());
        if let Some(seen) = &self.seen
            && version(&seen.record) == version(&record)
        {
            return;
        }
        self.see(now, record);
    }

    fn see(&mut self, now: Time, record: Option<Record>) {
        // Who made a record for one that was deleted needn't know how long the last holder counts on it.
        let said = record.as_ref().and_then(|record| record.lease);
        let lease = said.unwrap_or(self.lease).max(self.lease);
        self.seen = Some(Seen { record, since: now, lease });
    }

    /// What to write now, if anything.
    pub(super) fn claim(&self, now: Time) -> Option<Claim> {
        let seen = self.seen.as_ref().filter(|_| !self.in_doubt)?;
        let is_over = now.since(seen.since) >= seen.lease;
        let may = match &seen.record {
            Some(Record { holder: Some(_), .. }) => self.leads(now) || is_over,
            Some(Record { holder: None, .. }) | None => true,
        };
        may.then(|| Claim { over: seen.record.as_ref().map(|record| record.version.clone()) })
    }

    /// What was claimed at `asked` is written, and the record has this version.
    pub(super) fn written(&mut self, asked: Time, now: Time, claim: &Claim, version: String) {
        if claim.over.is_some() {
            self.until = asked + Election::term(self.lease);
        }
        let holder = Some(self.name.clone());
        self.see(now, Some(Record { version, holder, lease: Some(self.lease) }));
    }

    /// What was claimed is refused, for somebody else wrote, or nobody knows what became of it.
    pub(super) fn doubt(&mut self) {
        self.in_doubt = true;
    }

    /// Ceases to lead. Says which version to release, if it is worth it.
    pub(super) fn resign(&mut self, now: Time) -> Option<String> {
        let led = self.leads(now);
        self.until = Time::ZERO;
        self.seen.take()?.record.filter(|_| led).map(|record| record.version)
    }
}

#[cfg(test)]
mod tests;
