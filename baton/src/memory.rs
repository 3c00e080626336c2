//! Memory that was freed goes back to the system.

/// At once, from now on. Left to itself the allocator does so a moment later, and only when it is asked for memory again: a
/// node that has read its model and waits for requests would keep for good what reading took. A node's steps allocate
/// nothing; for a router, which allocates all the time, this would be the wrong choice.
pub(crate) fn give_back_at_once() {
    /// Milliseconds until freed pages are given back; the crate has no name for it.
    const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;
    // The allocator is a C library.
    #[allow(unsafe_code)]
    // SAFETY: options may be set at any time, from any thread.
    unsafe {
        libmimalloc_sys::mi_option_set(PURGE_DELAY, 0);
    }
}
