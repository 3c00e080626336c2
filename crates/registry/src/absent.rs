//! In the place of a registry that this build was made without. Options that name it are refused before.

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{Elsewhere, Held, Routers};

#[cfg(not(feature = "kubernetes"))]
pub(crate) fn check<O>(_: O) -> Result<(), crate::RegistryError> {
    Ok(())
}

pub(crate) async fn routers<O>(_: O, _: watch::Sender<Routers>) {}

pub(crate) async fn elsewhere<O>(_: O, _: Elsewhere) {}

pub(crate) async fn keep<O>(_: O, _: Held, _: CancellationToken) {}
