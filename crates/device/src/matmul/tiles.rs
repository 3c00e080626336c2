//! Products in AMX's tiles: 16 activation rows × 16 outputs × 32 inputs in one instruction (Intel 64 Software Developer's
//! Manual, volume 1, chapter 18). The integers are exact and turned into floats block by block as everywhere, so the
//! bits are the same.

use std::{
    arch::{asm, x86_64},
    marker::PhantomData,
    sync::LazyLock,
};

use super::MatmulPart;
use crate::{
    pack::{Pack, Quants},
    quantize::{BlockScale, QUANT_BLOCK},
    simd::{LANES, Simd},
};

/// Activation rows of a whole tile.
pub(crate) const ROWS: usize = 16;
/// Fewer rows than this are left to the vectors, eight at a time: a tile costs the same however full it is.
pub(crate) const FEWEST: usize = 9;
/// Blocks of a group's weights that lie unpacked at a time, 512 bytes each.
const CHUNK: usize = 32;

/// Whether the CPU has tiles of bytes and the kernel lends them to this process, which it is asked for once.
pub(crate) fn granted() -> bool {
    static GRANTED: LazyLock<bool> = LazyLock::new(|| cpu_has_tiles() && request());
    *GRANTED
}

fn cpu_has_tiles() -> bool {
    const TILE_AND_INT8: u32 = 0b11 << 24;
    const OSXSAVE: u32 = 1 << 27;
    const TILE_CONFIG_AND_DATA: u64 = 0b11 << 17;
    let most = x86_64::__cpuid(0).eax;
    most >= 7
        && x86_64::__cpuid_count(7, 0).edx & TILE_AND_INT8 == TILE_AND_INT8
        && x86_64::__cpuid(1).ecx & OSXSAVE != 0
        // SAFETY: OSXSAVE says that the instruction may be used.
        && unsafe { enabled_states() } & TILE_CONFIG_AND_DATA == TILE_CONFIG_AND_DATA
}

/// # Safety
///
/// The CPU and the kernel have XSAVE.
#[target_feature(enable = "xsave")]
unsafe fn enabled_states() -> u64 {
    // SAFETY: the caller's promise; 0 is the register of the enabled states.
    unsafe { x86_64::_xgetbv(0) }
}

/// Linux lends the tiles' 8 KiB a thread to processes that ask for them.
fn request() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const TILE_DATA: libc::c_long = 18;
    // SAFETY: no memory is involved.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, TILE_DATA) == 0 }
}

/// This thread's tiles, in the shapes of products; given up when dropped, so that switching to another thread needn't
/// save them.
pub(crate) struct Tiles {
    /// Of this thread only.
    thread: PhantomData<*const ()>,
}

/// What `ldtilecfg` reads.
#[repr(C, align(64))]
struct Shapes {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// Tiles 0 and 1: a whole tile's sums and activations. 2: weights. 3 and 4: as 0 and 1, for the rows that are left.
const SUMS: [usize; 2] = [0, 3];
const ACTIVATIONS: [usize; 2] = [1, 4];
const WEIGHTS: usize = 2;

impl Tiles {
    /// For blocks in `scales` parts, of so many rows.
    ///
    /// # Safety
    ///
    /// Tiles are [`granted`].
    #[inline(always)]
    pub(crate) unsafe fn configure(scales: usize, rows: usize) -> Self {
        let inputs = QUANT_BLOCK / scales;
        let mut shapes = Shapes {
            palette: 1,
            start_row: 0,
            reserved: [0; 14],
            row_bytes: [0; 16],
            rows: [0; 16],
        };
        let left = rows % ROWS;
        let mut shape = |tile: usize, rows: usize, bytes: usize| {
            (shapes.rows[tile], shapes.row_bytes[tile]) = (rows as u8, bytes as u16);
        };
        shape(WEIGHTS, inputs / 4, 4 * LANES);
        for (index, rows) in [ROWS, left.max(1)].into_iter().enumerate() {
            shape(SUMS[index], rows, 4 * LANES);
            shape(ACTIVATIONS[index], rows, inputs);
        }
        // SAFETY: tiles are granted; the shapes are within what palette 1 allows.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(readonly, nostack)) };
        Tiles { thread: PhantomData }
    }
}

impl Drop for Tiles {
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: there are tiles, for `configure` set them up.
        unsafe { asm!("tilerelease", options(nomem, nostack)) };
    }
}

/// Sums of one part of a block: `[activation row][output]`.
#[repr(C, align(64))]
struct Sums([[i32; LANES]; ROWS]);

/// A block's quants less their zero point, a signed byte each: byte `4·lane + j` of vector `v` is input `4v + j`.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Unpacked([[u8; 64]; QUANT_BLOCK / 4]);

/// `sums = activations · weights`, exact.
///
/// # Safety
///
/// Tiles are configured; `activations` are as many rows, `stride` bytes apart, as the tile they are loaded to has.
#[inline(always)]
unsafe fn multiply<const LEFT: bool>(
    sums: &mut Sums,
    activations: *const [i8; 4],
    stride: usize,
    weights: &[[u8; 64]],
) {
    macro_rules! multiply {
        ($sums:literal, $activations:literal) => {
            // SAFETY: as the caller promises; the weights' tile reads as many vectors as there are, and the sums' tile
            // writes no more than `Sums` has.
            unsafe {
                asm!(
                    concat!("tilezero ", $sums),
                    concat!("tileloadd ", $activations, ", [{a} + {a_stride}*1]"),
                    "tileloadd tmm2, [{w} + {vector}*1]",
                    concat!("tdpbssd ", $sums, ", ", $activations, ", tmm2"),
                    concat!("tilestored [{s} + {vector}*1], ", $sums),
                    a = in(reg) activations,
                    a_stride = in(reg) stride,
                    w = in(reg) weights.as_ptr(),
                    s = in(reg) sums,
                    vector = in(reg) 64_usize,
                    out("tmm0") _,
                    out("tmm1") _,
                    out("tmm2") _,
                    out("tmm3") _,
                    out("tmm4") _,
                    options(nostack, preserves_flags),
                );
            }
        };
    }
    if LEFT { multiply!("tmm3", "tmm4") } else { multiply!("tmm0", "tmm1") }
}

impl MatmulPart<'_> {
    /// The outputs of a group, for all activation rows that make tiles; gives the rows done.
    #[inline(always)]
    pub(super) fn tiled<S: Simd, P: Pack>(
        &self,
        s: S,
        _: &Tiles,
        packs: &[P],
        group: usize,
    ) -> usize {
        let blocks = packs.len() * P::BLOCKS;
        let (whole, left) = (self.x.rows() / ROWS * ROWS, self.x.rows() % ROWS);
        let done = if left < FEWEST { whole } else { whole + left };
        let mut unpacked = [const { Unpacked([[0; 64]; QUANT_BLOCK / 4]) }; CHUNK];
        for first in (0..blocks).step_by(CHUNK) {
            let count = CHUNK.min(blocks - first);
            for (index, unpacked) in unpacked[..count].iter_mut().enumerate() {
                let k = first + index;
                let vectors = packs[k / P::BLOCKS].quants(k % P::BLOCKS).vectors(s);
                for (vector, out) in vectors.into_iter().zip(&mut unpacked.0) {
                    s.store_bytes(vector, out);
                    // Unsigned quants are below 128 in formats that have no zero point.
                    out.iter_mut().for_each(|quant| *quant = quant.wrapping_sub(P::ZERO as u8));
                }
            }
            let chunk = Chunk { packs, group, first, unpacked: &unpacked[..count] };
            for row in (0..whole).step_by(ROWS) {
                self.tile_row::<S, P, false>(s, chunk, row, ROWS);
            }
            if done > whole {
                self.tile_row::<S, P, true>(s, chunk, whole, left);
            }
        }
        done
    }

    /// `rows` activation rows × 16 outputs, the blocks of a chunk added to what the chunks before it gave.
    #[inline(always)]
    fn tile_row<S: Simd, P: Pack, const LEFT: bool>(
        &self,
        s: S,
        chunk: Chunk<'_, P>,
        row: usize,
        rows: usize,
    ) {
        let Chunk { packs, group, first, unpacked } = chunk;
        let blocks = packs.len() * P::BLOCKS;
        // Rows that aren't there repeat the last one, and are forgotten.
        let at: [usize; ROWS] = std::array::from_fn(|r| row + r.min(rows - 1));
        let mut acc = [s.splat(0.0); ROWS];
        if first > 0 {
            for r in 0..ROWS {
                acc[r] = self.load(s, group, at[r]);
            }
        }
        let scales: [*const BlockScale; ROWS] =
            std::array::from_fn(|r| self.x.blocks[at[r] * blocks..][..blocks].as_ptr());
        // SAFETY: a row has as many scales as blocks. Unchecked, for with checks the loops over rows aren't unrolled, and
        // the sums are in memory instead of registers.
        let scale = |r: usize, k: usize| unsafe { *scales[r].add(k) };
        let quants = &self.x.quants[row * blocks * 8..][..rows * blocks * 8];
        let mut sums = Sums([[0; LANES]; ROWS]);
        for (index, unpacked) in unpacked.iter().enumerate() {
            let k = first + index;
            let (pack, block) = (&packs[k / P::BLOCKS], k % P::BLOCKS);
            for part in 0..P::SCALES {
                let vectors = 8 / P::SCALES;
                let activations = quants[8 * k + part * vectors..].as_ptr();
                let weights = &unpacked.0[part * vectors..][..vectors];
                // SAFETY: the tiles were configured for `P` and these rows, a row of `quants` each.
                unsafe { multiply::<LEFT>(&mut sums, activations, blocks * QUANT_BLOCK, weights) };
                let weight_scale = pack.scale(s, block, part);
                for (r, acc) in acc.iter_mut().enumerate() {
                    let sum = s.load_ints(&sums.0[r]);
                    let product = s.mul(weight_scale, s.splat(scale(r, k).scale));
                    *acc = s.fma(product, s.to_f32(sum), *acc);
                }
            }
            if P::MINIMUM {
                let minimum = pack.minimum(s, block);
                for (r, acc) in acc.iter_mut().enumerate() {
                    *acc = s.fma(minimum, s.splat(scale(r, k).scaled_sum), *acc);
                }
            }
        }
        for (r, &acc) in acc.iter().enumerate() {
            if r < rows {
                self.store(s, group, row + r, acc);
            }
        }
    }
}

/// Some blocks of a group's weights.
struct Chunk<'a, P> {
    /// The whole group's.
    packs: &'a [P],
    group: usize,
    /// The first of the blocks.
    first: usize,
    unpacked: &'a [Unpacked],
}

impl<P> Clone for Chunk<'_, P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Chunk<'_, P> {}
