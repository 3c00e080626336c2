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

/// How much less than anybody else's work counts what nobody waits for yet.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Starts `work`, which nobody waits for yet, on a thread of its own that takes the time the others
/// leave. It ends with the process.
pub fn background(name: &'static str, work: impl FnOnce() + Send + 'static) {
    let quietly = move || {
        // On Linux a thread's own; elsewhere it would be the whole process's.
        #[cfg(target_os = "linux")]
        if let Err(error) = rustix::process::nice(NICENESS) {
            tracing::debug!(name, %error, "the thread keeps its priority");
        }
        work();
    };
    if let Err(error) = std::thread::Builder::new().name(name.to_owned()).spawn(quietly) {
        tracing::warn!(name, %error, "no thread in the background");
    }
}
