//! Of which class a request is, and whose.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// A class of requests as the policy sees it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Class {
    pub id: ClassId,
    /// Of two classes, requests of the one with more go first.
    pub priority: u8,
    pub service: Service,
}

/// Which of the router's classes: how long outputs are is learned by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClassId(pub u16);

/// How a class is served.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Service {
    /// Somebody waits for it.
    #[default]
    Interactive,
    /// Nobody does: it waits for as long as it has to, goes after all others, whatever their
    /// priority, and leaves room for those who come.
    Batch,
}

/// On whose behalf a request comes, and what of the cluster is theirs when not all get what they
/// want.
#[derive(Clone, Debug, PartialEq)]
pub struct Tenant {
    pub id: TenantId,
    /// In proportion to the others' that wait in the same class; above 0.
    pub share: f64,
}

/// A tenant's name. Who gives none is one tenant with all others who don't.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantId(pub Arc<str>);

impl Default for Tenant {
    fn default() -> Self {
        Tenant { id: TenantId::default(), share: 1.0 }
    }
}
