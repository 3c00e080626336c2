//! Who is inside, bounded, and how to cancel them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use baton_policy::TenantId;
use baton_types::RequestId;
use tokio_util::sync::CancellationToken;

use crate::error::RequestError;

/// The requests that are inside the router.
#[derive(Debug)]
pub(crate) struct Inside {
    max: u32,
    state: Mutex<State>,
    closing: CancellationToken,
    /// Whoever was left was ended.
    ended: CancellationToken,
}

#[derive(Debug, Default)]
struct State {
    cancels: HashMap<RequestId, (TenantId, CancellationToken)>,
}

/// One request's being inside, over when dropped.
#[derive(Debug)]
pub(crate) struct Entered {
    inside: Arc<Inside>,
    pub(crate) id: RequestId,
    /// Cancelled when somebody asks for it.
    pub(crate) cancel: CancellationToken,
}

impl Inside {
    pub(crate) fn new(max: u32) -> Self {
        let [closing, ended] = [(); 2].map(|()| CancellationToken::new());
        Inside { max, state: Mutex::default(), closing, ended }
    }

    /// Lets a request in, if there is room.
    pub(crate) fn enter(
        self: &Arc<Self>,
        id: RequestId,
        tenant: &TenantId,
    ) -> Result<Entered, RequestError> {
        let mut state = self.lock();
        if self.closing.is_cancelled() {
            return Err(RequestError::ShuttingDown);
        }
        if state.cancels.len() >= self.max as usize {
            return Err(RequestError::TooMany { max: self.max });
        }
        let cancel = CancellationToken::new();
        state.cancels.insert(id, (tenant.clone(), cancel.clone()));
        Ok(Entered { inside: Arc::clone(self), id, cancel })
    }

    /// Ends a running request. False when there is none of that id.
    pub(crate) fn cancel(&self, id: RequestId) -> bool {
        self.cancel_if(id, |_tenant| true)
    }

    /// The same of what is `tenant`'s.
    pub(crate) fn give_way(&self, id: RequestId, tenant: &TenantId) -> bool {
        self.cancel_if(id, |owner| owner == tenant)
    }

    fn cancel_if(&self, id: RequestId, may: impl FnOnce(&TenantId) -> bool) -> bool {
        let state = self.lock();
        let running = state.cancels.get(&id).filter(|(_, cancel)| !cancel.is_cancelled());
        let running = running.filter(|(tenant, _)| may(tenant));
        running.inspect(|(_, cancel)| cancel.cancel()).is_some()
    }

    /// Lets nobody in any more.
    pub(crate) fn close(&self) {
        self.closing.cancel();
    }

    /// Completes when nobody is let in any more.
    pub(crate) fn closed(&self) -> impl Future<Output = ()> + Send + use<> {
        self.closing.clone().cancelled_owned()
    }

    /// Ends everything that runs.
    pub(crate) fn cancel_all(&self) {
        self.ended.cancel();
        self.lock().cancels.values().for_each(|(_, cancel)| cancel.cancel());
    }

    pub(crate) fn len(&self) -> usize {
        self.lock().cancels.len()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entered {
    /// Why it was cancelled: somebody wanted so, or it may go on at another router.
    pub(crate) fn why_cancelled(&self) -> RequestError {
        match self.inside.ended.is_cancelled() {
            true => RequestError::ShuttingDown,
            false => RequestError::Cancelled { id: self.id },
        }
    }
}

impl Drop for Entered {
    fn drop(&mut self) {
        self.inside.lock().cancels.remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_door_is_bounded_and_closes() {
        let inside = Arc::new(Inside::new(1));
        let [acme, other] = ["acme", "other"].map(|name| TenantId(name.into()));
        let entered = inside.enter(RequestId(1), &acme).unwrap();
        let full = RequestError::TooMany { max: 1 };
        assert_eq!(inside.enter(RequestId(2), &acme).unwrap_err(), full);
        assert!(!inside.give_way(RequestId(1), &other) && !entered.cancel.is_cancelled());
        assert!(inside.cancel(RequestId(1)) && entered.cancel.is_cancelled());
        assert!(!inside.give_way(RequestId(1), &acme) && !inside.cancel(RequestId(2)));
        drop(entered);
        assert_eq!(inside.len(), 0);
        inside.close();
        assert_eq!(inside.enter(RequestId(3), &acme).unwrap_err(), RequestError::ShuttingDown);
    }
}
