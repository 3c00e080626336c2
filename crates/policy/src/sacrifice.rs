//! Who gives way when not all can be in time.
//!
//! By Moore and Hodgson (1968), which leaves as many in time as one machine can: in order of their
//! deadlines, whenever one would be late, the longest so far is taken out. Of several tenants, the
//! longest of the one that would have had most: so nobody who asks for less than its share gives way
//! to one who asks for more. Of several priorities the higher is dealt with first, and gives nothing
//! up for the lower.

use std::{
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    time::Duration,
};

use baton_types::Time;

use crate::{
    TenantId,
    queue::{Level, Queue, Rank},
    share::{Had, Shares},
};

/// No more than these are looked at to see who is to give way.
const LOOK_AHEAD: usize = 512;

/// What a tenant would have had, and its requests: how long each takes, and what it adds to that.
type Own = (Had, BinaryHeap<(Duration, Rank, Had)>);

/// Those that will be in time, by tenant.
struct Kept<'a> {
    shares: &'a Shares,
    tenants: BTreeMap<&'a TenantId, Own>,
    by_had: BTreeSet<(Had, &'a TenantId)>,
}

impl<'a> Kept<'a> {
    fn of(shares: &'a Shares) -> Self {
        Kept { shares, tenants: BTreeMap::new(), by_had: BTreeSet::new() }
    }

    fn push(&mut self, tenant: &'a TenantId, time: Duration, rank: Rank, cost: Had) {
        let none = || (self.shares.had(tenant), BinaryHeap::new());
        let (had, requests) = self.tenants.entry(tenant).or_insert_with(none);
        self.by_had.remove(&(*had, tenant));
        *had = had.and(cost);
        self.by_had.insert((*had, tenant));
        requests.push((time, rank, cost));
    }

    /// Of who would have had most the longest; of equals the later one.
    fn pop(&mut self) -> Option<(Duration, Rank)> {
        let (_, tenant) = self.by_had.pop_last()?;
        let (had, requests) = self.tenants.get_mut(tenant)?;
        let (time, rank, cost) = requests.pop()?;
        *had = had.less(cost);
        if !requests.is_empty() {
            self.by_had.insert((*had, tenant));
        }
        Some((time, rank))
    }
}

impl Queue {
    /// Says who gives way. `machines` work off what waits, and `backlog`: when each of it must be
    /// begun and how long it takes, the earliest first.
    pub(crate) fn sacrifice(&mut self, now: Time, backlog: &[(Time, Duration)], machines: u32) {
        for rank in std::mem::take(&mut self.given_way) {
            if let Some(waiting) = self.waiting.get_mut(&rank) {
                waiting.request.gives_way = false;
            }
        }
        let (mut end, mut kept, mut level) = (now, None, None);
        let mut backlog = backlog.iter().peekable();
        for (rank, waiting) in self.waiting.iter().take(LOOK_AHEAD) {
            let is_interactive = matches!(rank.level, Level::Interactive(_));
            if !is_interactive || rank.late || waiting.request.slo.ttft.is_none() {
                continue;
            }
            if level.replace(rank.level) != Some(rank.level) {
                kept = self.lanes.get(&rank.level).map(|lane| Kept::of(&lane.shares));
            }
            let Some(kept) = &mut kept else { continue };
            while let Some((_, left)) = backlog.next_if(|(latest, _)| *latest <= rank.latest) {
                end += *left / machines.max(1);
            }
            let share = waiting.compute / machines.max(1);
            kept.push(&waiting.request.tenant.id, share, *rank, waiting.cost);
            end += share;
            let is_late = |end: Time| now + (end - (now + share)) > rank.latest;
            // The longest of all makes room enough, another tenant's perhaps not.
            let mut freed = Duration::ZERO;
            while is_late(end)
                && (freed.is_zero() || freed < share)
                && let Some((longest, rank)) = kept.pop()
            {
                freed += longest;
                end = now + (end - now).saturating_sub(longest);
                self.given_way.insert(rank);
                if longest.is_zero() {
                    break;
                }
            }
        }
        for rank in &self.given_way {
            if let Some(waiting) = self.waiting.get_mut(rank) {
                waiting.request.gives_way = true;
            }
        }
    }
}
