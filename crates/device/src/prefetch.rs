//! Asking the caches for what a kernel will read soon.

/// The shortest lines of the CPUs below.
const LINE: usize = 64;

/// Asks for `bytes` bytes from `start`, which may lie anywhere, also beyond an allocation's end.
#[inline(always)]
pub(crate) fn prefetch<T>(start: *const T, bytes: usize) {
    for line in (0..bytes).step_by(LINE) {
        hint(start.cast::<u8>().wrapping_add(line));
    }
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn hint(line: *const u8) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a hint; it reads nothing, whatever the address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(line.cast()) };
}

#[cfg(target_arch = "aarch64")]
#[inline(always)]
fn hint(line: *const u8) {
    // SAFETY: a hint; it reads nothing, whatever the address.
    unsafe {
        std::arch::asm!(
            "prfm pldl1keep, [{}]",
            in(reg) line,
            options(nomem, nostack, preserves_flags),
        );
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
#[inline(always)]
fn hint(_: *const u8) {}
