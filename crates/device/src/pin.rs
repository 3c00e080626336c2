//! Threads that stay on a core.

use std::{io, mem};

/// Why threads can't have a core each.
#[derive(Debug, thiserror::Error)]
pub enum PinError {
    #[error(
        "{threads} threads can't have a core each: this process may use {cores}; give it fewer threads, or don't pin them"
    )]
    Cores { threads: usize, cores: usize },
    #[error("the system doesn't say which cores this process may use: {0}")]
    Unknown(io::Error),
}

/// Cores for so many threads, of those that the calling thread may use.
pub(crate) fn cores_for(threads: usize) -> Result<Vec<usize>, PinError> {
    let mut cores = allowed().map_err(PinError::Unknown)?;
    if threads > cores.len() {
        return Err(PinError::Cores { threads, cores: cores.len() });
    }
    cores.truncate(threads);
    Ok(cores)
}

/// Those the calling thread may use, ascending.
pub(crate) fn allowed() -> io::Result<Vec<usize>> {
    // SAFETY: a set of bits.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: the set has the size that is told; 0 is the calling thread.
    if unsafe { libc::sched_getaffinity(0, size_of_val(&set), &raw mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: below the set's size.
    Ok((0..libc::CPU_SETSIZE as usize)
        .filter(|&core| unsafe { libc::CPU_ISSET(core, &set) })
        .collect())
}

/// Keeps the calling thread on `core`. Who can't be kept runs wherever it may, as all others do.
pub(crate) fn pin(core: usize) {
    // SAFETY: a set of bits.
    let mut set: libc::cpu_set_t = unsafe { mem::zeroed() };
    // SAFETY: `core` is of a set of that size.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set has the size that is told; 0 is the calling thread.
    unsafe { libc::sched_setaffinity(0, size_of_val(&set), &raw const set) };
}
