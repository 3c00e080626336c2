//! What each tenant has had, so that those who wait share what there is.
//!
//! # By what rule?
//!
//! The virtual token counter of Sheng et al. (*Fairness in Serving Large Language Models*, OSDI 2024,
//! §4): a tenant's counter rises by the service each of its requests is reckoned to take, divided by
//! the tenant's share, and whoever has the least goes first. Who comes after a while is lifted to the
//! least of those who wait: time in which it asked for nothing earns it nothing.
//!
//! **Invariant** (`fair-share`): while two tenants wait, and nothing but their counters orders them,
//! what they get, divided by their shares, differs by no more than twice the largest of their requests,
//! divided likewise. Whoever waits is never more than that behind (`no-starving`).

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{Tenant, TenantId};

/// Service divided by a share: nanoseconds of nodes' time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Had(u128);

/// Tenants of one class, while any of their requests wait.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    known: BTreeMap<TenantId, Account>,
    /// Those who wait, and those who don't but have had more than the least of them.
    waiting: BTreeSet<(Had, TenantId)>,
    idle: BTreeSet<(Had, TenantId)>,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    had: Had,
    share: f64,
    requests: usize,
}

/// Tenants without a waiting request that are remembered; of more, those who have had least are
/// forgotten.
const MAX_IDLE: usize = 4096;
/// Smaller shares count as this.
const LEAST_SHARE: f64 = 1e-3;

impl Had {
    /// `service` to a tenant with this share. A nanosecond at least: what costs nothing is shared by
    /// the number of requests.
    pub(crate) fn of(service: Duration, share: f64) -> Self {
        let share = if share.is_finite() { share.max(LEAST_SHARE) } else { 1.0 };
        Had((service.as_nanos().max(1) as f64 / share).ceil() as u128)
    }

    pub(crate) fn and(self, more: Had) -> Self {
        Had(self.0 + more.0)
    }

    pub(crate) fn less(self, of: Had) -> Self {
        Had(self.0.saturating_sub(of.0))
    }
}

impl Shares {
    /// One more request of the tenant waits.
    pub(crate) fn enter(&mut self, tenant: &Tenant) {
        let least = self.least();
        let new = Account { had: Had::default(), share: tenant.share, requests: 0 };
        let account = self.known.entry(tenant.id.clone()).or_insert(new);
        account.share = tenant.share;
        account.requests += 1;
        if account.requests == 1 {
            self.idle.remove(&(account.had, tenant.id.clone()));
            account.had = account.had.max(least);
            self.waiting.insert((account.had, tenant.id.clone()));
        }
    }

    /// One less does.
    pub(crate) fn leave(&mut self, tenant: &TenantId) {
        let Some(account) = self.known.get_mut(tenant) else { return };
        account.requests = account.requests.saturating_sub(1);
        if account.requests == 0 {
            let entry = (account.had, tenant.clone());
            self.waiting.remove(&entry);
            self.idle.insert(entry);
        }
        self.forget();
    }

    /// The tenant gets so much.
    pub(crate) fn charge(&mut self, tenant: &TenantId, cost: Had) {
        self.set(tenant, |had| had.and(cost));
        self.forget();
    }

    /// What the tenant has had.
    pub(crate) fn had(&self, tenant: &TenantId) -> Had {
        self.known.get(tenant).map_or(Had::default(), |account| account.had)
    }

    /// How many requests of all who wait count as before the next of `tenant`: of one tenant alone
    /// those it has; of several as many as were there if each had as many for its share as this one.
    pub(crate) fn before(&self, tenant: &Tenant) -> usize {
        let own = self.known.get(&tenant.id).map_or(0, |account| account.requests);
        let waiting = self.waiting.iter().filter_map(|(_, id)| self.known.get(id));
        let others: f64 = waiting.map(|account| account.share.max(LEAST_SHARE)).sum();
        let share = tenant.share.max(LEAST_SHARE);
        let all = if own > 0 { others } else { others + share };
        (own as f64 * all / share).ceil() as usize
    }

    fn set(&mut self, tenant: &TenantId, change: impl FnOnce(Had) -> Had) {
        let Some(account) = self.known.get_mut(tenant) else { return };
        let among = if account.requests > 0 { &mut self.waiting } else { &mut self.idle };
        among.remove(&(account.had, tenant.clone()));
        account.had = change(account.had);
        among.insert((account.had, tenant.clone()));
    }

    fn least(&self) -> Had {
        self.waiting.first().map_or(Had::default(), |(had, _)| *had)
    }

    /// Forgets whoever would be lifted anyway, and everybody when nobody waits.
    fn forget(&mut self) {
        let least = self.waiting.first().map(|(had, _)| *had);
        while let Some((had, tenant)) = self.idle.first()
            && (least.is_none_or(|least| *had <= least) || self.idle.len() > MAX_IDLE)
        {
            self.known.remove(tenant);
            self.idle.pop_first();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(name: &str, share: f64) -> Tenant {
        Tenant { id: TenantId(name.into()), share }
    }

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn who_comes_back_has_no_credit_and_no_debt_is_forgotten_while_others_wait() {
        let (mut shares, a, b) = (Shares::default(), tenant("a", 1.0), tenant("b", 2.0));
        for _ in 0..3 {
            shares.enter(&a);
        }
        shares.charge(&a.id, Had::of(10 * MS, a.share));
        shares.enter(&b);
        assert_eq!(shares.had(&b.id), shares.had(&a.id), "lifted to who waits");
        shares.charge(&b.id, Had::of(10 * MS, b.share));
        assert_eq!(shares.had(&b.id), Had(15_000_000), "twice the share, half of it counts");
        shares.leave(&b.id);
        shares.enter(&b);
        assert_eq!(shares.had(&b.id), Had(15_000_000), "a break doesn't forgive");
        assert_eq!(shares.before(&a), 9, "three of its own for each of three shares");
        shares.leave(&b.id);
        for _ in 0..3 {
            shares.leave(&a.id);
        }
        assert!(shares.known.is_empty() && shares.idle.is_empty(), "{shares:?}");
    }

    #[test]
    fn tenants_that_do_not_wait_are_bounded() {
        let mut shares = Shares::default();
        shares.enter(&tenant("waits", 1.0));
        for number in 0..2 * MAX_IDLE {
            let one = tenant(&number.to_string(), 1.0);
            shares.enter(&one);
            shares.charge(&one.id, Had::of(MS, 1.0));
            shares.leave(&one.id);
        }
        assert!(shares.known.len() <= MAX_IDLE + 1, "{}", shares.known.len());
    }
}
