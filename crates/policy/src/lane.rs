//! Requests that go neither before nor after each other by their class, tenant by tenant.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
};

use crate::{
    Tenant, TenantId,
    queue::{Level, Rank},
    share::{Had, Shares},
};

/// Those of one level.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    pub(crate) shares: Shares,
    ranks: BTreeMap<TenantId, BTreeSet<Rank>>,
}

impl Lane {
    pub(crate) fn enter(&mut self, tenant: &Tenant, rank: Rank) {
        self.shares.enter(tenant);
        self.ranks.entry(tenant.id.clone()).or_default().insert(rank);
    }

    pub(crate) fn leave(&mut self, tenant: &TenantId, rank: Rank) {
        self.shares.leave(tenant);
        if let Some(ranks) = self.ranks.get_mut(tenant) {
            ranks.remove(&rank);
            if ranks.is_empty() {
                self.ranks.remove(tenant);
            }
        }
    }

    /// A request's rank has changed.
    pub(crate) fn moved(&mut self, tenant: &TenantId, before: Rank, after: Rank) {
        if let Some(ranks) = self.ranks.get_mut(tenant) {
            ranks.remove(&before);
            ranks.insert(after);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.ranks.values().map(BTreeSet::len).sum()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.ranks.is_empty()
    }

    /// Those that `counts`: whose tenant has had least first, each tenant's by rank. `cost` is what
    /// a request's tenant will have had more after it.
    pub(crate) fn turns<'a>(
        &'a self,
        counts: impl Fn(&Rank) -> bool + Copy + 'a,
        cost: impl Fn(&Rank) -> Had + 'a,
    ) -> impl Iterator<Item = Turn<'a>> {
        let mut rest: Vec<_> = self
            .ranks
            .iter()
            .map(|(id, ranks)| (id, ranks.iter().filter(move |one| counts(one))))
            .collect();
        let mut heads = BinaryHeap::with_capacity(rest.len());
        for (at, (tenant, ranks)) in rest.iter_mut().enumerate() {
            heads.extend(ranks.next().map(|rank| Reverse((self.shares.had(tenant), *rank, at))));
        }
        std::iter::from_fn(move || {
            let Reverse((had, rank, at)) = heads.pop()?;
            let (tenant, ranks) = &mut rest[at];
            let after = had.and(cost(&rank));
            heads.extend(ranks.next().map(|next| Reverse((after, *next, at))));
            Some(Turn { rank, tenant, after })
        })
    }
}

/// Whose turn it is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Turn<'a> {
    pub(crate) rank: Rank,
    pub(crate) tenant: &'a TenantId,
    /// What its tenant will have had then.
    pub(crate) after: Had,
}

impl Level {
    /// Whose the request is where it waits: whoever goes before all others does so whoever it is.
    pub(crate) fn tenant(self, tenant: &Tenant) -> Tenant {
        if self == Level::Begun { Tenant::default() } else { tenant.clone() }
    }
}
