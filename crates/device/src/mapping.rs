//! Memory straight from the system: zeroed, page-aligned, and given back as soon as it is dropped.

use std::{io, ptr::NonNull};

/// An anonymous mapping.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
}

// SAFETY: a mapping is memory like any other; who has it decides who touches it.
unsafe impl Send for Mapping {}
// SAFETY: as above.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// `bytes` zero bytes, which cost memory when they are first touched.
    pub(crate) fn new(bytes: usize) -> io::Result<Self> {
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping, of no descriptor, at no address in particular.
        let base = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or_else(|| io::Error::other("mmap gave null"))?;
        Ok(Mapping { base, bytes })
    }

    pub(crate) fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Asks for huge pages: whoever reads much of it finds its way through a smaller table. A system that has none
    /// goes on as it was.
    pub(crate) fn advise_huge(&self) -> io::Result<()> {
        self.advise(libc::MADV_HUGEPAGE)
    }

    /// Takes all of the memory now.
    pub(crate) fn populate(&self) -> io::Result<()> {
        self.advise(libc::MADV_POPULATE_WRITE)
    }

    fn advise(&self, advice: i32) -> io::Result<()> {
        // SAFETY: the whole of the mapping; what is advised here doesn't change its contents.
        let advised = unsafe { libc::madvise(self.base.as_ptr().cast(), self.bytes, advice) };
        let error = io::Error::last_os_error();
        let is_known = advised == 0 || error.raw_os_error() != Some(libc::EINVAL);
        if advised == 0 || !is_known { Ok(()) } else { Err(error) }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: made by `new` with this length, and whoever points into it has borrowed or shared this.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
