//! Where weights lie: one after another in a few large mappings with huge pages, so that a step, which reads all of
//! them, finds its way through a table that fits the processor.

use std::{
    fmt, io,
    ops::Deref,
    ptr::NonNull,
    sync::{Arc, Mutex, PoisonError},
};

use crate::mapping::Mapping;

/// Mappings are at least so large.
const CHUNK: usize = 32 << 20;
/// Every region begins on a cache line.
const ALIGN: usize = 64;

/// Types of which zero bytes are a value.
///
/// # Safety
///
/// They are.
pub(crate) unsafe trait Zeroed: Copy + Send + Sync {}
// SAFETY: zero.
unsafe impl Zeroed for f32 {}
// SAFETY: zero.
unsafe impl Zeroed for u16 {}

/// Room for the weights of one model. Given back when the last matrix in it is dropped.
#[derive(Debug, Default)]
pub struct WeightMemory {
    open: Mutex<Option<Open>>,
}

/// The mapping that is being filled, and up to where it is.
#[derive(Debug)]
struct Open {
    mapping: Arc<Mapping>,
    used: usize,
}

/// Some values of such a mapping.
pub(crate) struct Region<T> {
    mapping: Arc<Mapping>,
    base: NonNull<T>,
    len: usize,
}

// SAFETY: who has the region alone may change its values, and nobody else's lie there.
unsafe impl<T: Send> Send for Region<T> {}
// SAFETY: shared, it is only read.
unsafe impl<T: Sync> Sync for Region<T> {}

impl WeightMemory {
    /// `len` zeros, which `fill` is to overwrite.
    pub(crate) fn region<T: Zeroed>(
        &self,
        len: usize,
        fill: impl FnOnce(&mut [T]),
    ) -> io::Result<Region<T>> {
        const { assert!(align_of::<T>() <= ALIGN) };
        let bytes = (len * size_of::<T>()).next_multiple_of(ALIGN);
        let (mapping, start) = self.take(bytes)?;
        // SAFETY: `take` gave these bytes of the mapping to nobody else; they are aligned as it says.
        let base = unsafe { mapping.base().add(start).cast::<T>() };
        // SAFETY: inside the mapping, zeroed, and nobody else's; zero bytes are a value.
        fill(unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), len) });
        Ok(Region { mapping, base, len })
    }

    /// So many bytes of a mapping, from there on.
    fn take(&self, bytes: usize) -> io::Result<(Arc<Mapping>, usize)> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(open) = open.as_mut().filter(|open| open.used + bytes <= open.mapping.bytes()) {
            let start = open.used;
            open.used += bytes;
            return Ok((Arc::clone(&open.mapping), start));
        }
        let mapping = Arc::new(Mapping::new(bytes.max(CHUNK))?);
        mapping.advise_huge()?;
        // What fills one by itself leaves the other open.
        if bytes < CHUNK {
            *open = Some(Open { mapping: Arc::clone(&mapping), used: bytes });
        }
        Ok((mapping, 0))
    }
}

impl<T> Deref for Region<T> {
    type Target = [T];

    #[inline(always)]
    fn deref(&self) -> &[T] {
        // SAFETY: `WeightMemory::region` made these values, and `mapping` keeps them.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), self.len) }
    }
}

impl<T> Clone for Region<T> {
    /// The same values, which nobody changes.
    fn clone(&self) -> Self {
        Region { mapping: Arc::clone(&self.mapping), base: self.base, len: self.len }
    }
}

impl<T> fmt::Debug for Region<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} values", self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regions_lie_side_by_side_and_outlive_their_memory() {
        let memory = WeightMemory::default();
        let regions: Vec<_> = (1..200_usize)
            .map(|nth| {
                let len = nth * 7_919 % 100_000;
                memory.region::<f32>(len, |values| values.fill(nth as f32)).unwrap()
            })
            .collect();
        let large = memory.region::<u16>(CHUNK, |values| values[CHUNK - 1] = 7).unwrap();
        drop(memory);
        for (nth, region) in (1..).zip(&regions) {
            assert_eq!(region.len(), nth * 7_919 % 100_000);
            assert!(region.iter().all(|&value| value == nth as f32));
            assert!(region.as_ptr().addr().is_multiple_of(ALIGN));
        }
        assert!(large[..CHUNK - 1].iter().all(|&value| value == 0) && large[CHUNK - 1] == 7);
        let copy = regions[3].clone();
        drop(regions);
        assert!(copy.iter().all(|&value| value == 4.0));
    }
}
