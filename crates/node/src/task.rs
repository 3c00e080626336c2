//! Tasks with an owner.

use tokio_util::task::AbortOnDropHandle;

/// Starts a task that ends, at the latest, when its handle is dropped.
pub fn owned<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> AbortOnDropHandle<T> {
    #[allow(clippy::disallowed_methods, reason = "the handle is the owner the ban asks for")]
    let handle = tokio::spawn(future);
    AbortOnDropHandle::new(handle)
}
