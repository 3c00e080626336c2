//! From a file's blocks, row by row, to packs of 16 rows.

use std::{io, thread};

use crate::{
    pack::{Affine, AffineSuper, Bytes, HalvesSuper, Nibbles, Pack, Quants, Scaled, SmallBytes},
    quantize::QUANT_BLOCK,
    region::{Region, WeightMemory},
    simd::LANES,
};

/// One row's block of a file: `place` puts it into lane `lane` of its pack.
pub(crate) trait FromFile: Pack {
    fn place(&mut self, lane: usize, block: &[u8]);
}

/// A thread is worth so many bytes of a file.
const PER_THREAD: usize = 128 << 10;

/// Packs `data`, `[row][block]` of `block_bytes` each, as `[row group][pack]`; missing rows are 0. On as many threads as
/// there are cores.
pub(crate) fn repack<P: FromFile>(
    memory: &WeightMemory,
    data: &[u8],
    rows: usize,
    block_bytes: usize,
) -> io::Result<Region<P>> {
    let row_bytes = data.len() / rows;
    let per_row = row_bytes / block_bytes;
    let groups = rows.div_ceil(LANES);
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let threads = cores.min(data.len().div_ceil(PER_THREAD)).min(groups);
    let each = groups.div_ceil(threads);
    memory.region(groups * per_row, |packs: &mut [P]| {
        let parts = packs.chunks_mut(each * per_row).zip(data.chunks(each * LANES * row_bytes));
        thread::scope(|scope| {
            for (index, (packs, data)) in parts.enumerate() {
                let mut place = move || place_rows(packs, data, per_row, block_bytes);
                // The last part is this thread's.
                if index + 1 == groups.div_ceil(each) {
                    place();
                } else {
                    scope.spawn(place);
                }
            }
        });
    })
}

/// `data`, whole rows from a group's first on.
fn place_rows<P: FromFile>(packs: &mut [P], data: &[u8], per_row: usize, block_bytes: usize) {
    for (row, data) in data.chunks_exact(per_row * block_bytes).enumerate() {
        let packs = &mut packs[row / LANES * per_row..][..per_row];
        for (pack, block) in packs.iter_mut().zip(data.chunks_exact(block_bytes)) {
            pack.place(row % LANES, block);
        }
    }
}

type Quants32 = [u8; QUANT_BLOCK];

fn bits16(bytes: &[u8]) -> u16 {
    u16::from_le_bytes([bytes[0], bytes[1]])
}

/// 16 bytes: inputs 0–15 low, 16–31 high.
fn nibbles(bytes: &[u8]) -> Quants32 {
    std::array::from_fn(|k| (bytes[k % 16] >> (k / 16 * 4)) & 15)
}

/// Four bytes of fifth bits, then the nibbles.
fn fives(bytes: &[u8]) -> Quants32 {
    let (bits, nibbles) = (&bytes[..4], nibbles(&bytes[4..]));
    std::array::from_fn(|k| nibbles[k] | (((bits[k / 8] >> (k % 8)) & 1) << 4))
}

/// Q4_0: f16 scale, nibbles.
impl FromFile for Scaled<Nibbles, 8> {
    fn place(&mut self, lane: usize, block: &[u8]) {
        self.scales[lane] = bits16(block);
        self.quants.set(lane, &nibbles(&block[2..]));
    }
}

/// Q5_0: f16 scale, fives.
impl FromFile for Scaled<SmallBytes, 16> {
    fn place(&mut self, lane: usize, block: &[u8]) {
        self.scales[lane] = bits16(block);
        self.quants.set(lane, &fives(&block[2..]));
    }
}

/// Q8_0: f16 scale, signed bytes.
impl FromFile for Scaled<Bytes, 128> {
    fn place(&mut self, lane: usize, block: &[u8]) {
        self.scales[lane] = bits16(block);
        self.quants.set(lane, &std::array::from_fn(|k| block[2 + k] ^ 0x80));
    }
}

/// Q4_1: f16 scale, f16 minimum, nibbles.
impl FromFile for Affine<Nibbles> {
    fn place(&mut self, lane: usize, block: &[u8]) {
        (self.scales[lane], self.minimums[lane]) = (bits16(block), bits16(&block[2..]));
        self.quants.set(lane, &nibbles(&block[4..]));
    }
}

/// Q5_1: f16 scale, f16 minimum, fives.
impl FromFile for Affine<SmallBytes> {
    fn place(&mut self, lane: usize, block: &[u8]) {
        (self.scales[lane], self.minimums[lane]) = (bits16(block), bits16(&block[2..]));
        self.quants.set(lane, &fives(&block[4..]));
    }
}

/// Q4_K: the header of [`place_shares`], then pairs of blocks, 32 bytes each: low, high nibbles.
impl FromFile for AffineSuper<Nibbles> {
    fn place(&mut self, lane: usize, block: &[u8]) {
        place_shares(self, lane, &block[..16]);
        for (j, quants) in self.quants.iter_mut().enumerate() {
            quants.set(lane, &pair_nibbles(&block[16..], j));
        }
    }
}

/// Q5_K: as Q4_K, with 32 bytes of fifth bits between; bit `j` is block `j`'s.
impl FromFile for AffineSuper<SmallBytes> {
    fn place(&mut self, lane: usize, block: &[u8]) {
        place_shares(self, lane, &block[..16]);
        for (j, quants) in self.quants.iter_mut().enumerate() {
            let nibbles = pair_nibbles(&block[48..], j);
            let five = |k: usize| nibbles[k] | (((block[16 + k] >> j) & 1) << 4);
            quants.set(lane, &std::array::from_fn(five));
        }
    }
}

/// f16 scale, f16 minimum (to subtract), then six-bit shares of both in 12 bytes: the first four
/// of each in the low bits, the last four's nibbles after them and their high bits in the rest.
fn place_shares<Q: Quants>(pack: &mut AffineSuper<Q>, lane: usize, header: &[u8]) {
    const SIGN: u16 = 0x8000;
    pack.scales[lane] = bits16(header);
    pack.minimums[lane] = bits16(&header[2..]) ^ SIGN;
    let b = &header[4..];
    for j in 0..4 {
        pack.scale_shares[j][lane] = (b[j] & 63) as i8;
        pack.minimum_shares[j][lane] = (b[4 + j] & 63) as i8;
        pack.scale_shares[4 + j][lane] = ((b[8 + j] & 15) | (b[j] >> 6 << 4)) as i8;
        pack.minimum_shares[4 + j][lane] = ((b[8 + j] >> 4) | (b[4 + j] >> 6 << 4)) as i8;
    }
}

fn pair_nibbles(bytes: &[u8], block: usize) -> Quants32 {
    std::array::from_fn(|k| (bytes[block / 2 * 32 + k] >> (block % 2 * 4)) & 15)
}

/// Q6_K: 128 bytes of nibbles, 64 of two high bits, 16 signed shares, f16 scale; per 128 inputs,
/// block `j` is in nibble `j / 2` of the `j % 2`th 32 bytes and in bit pair `j` of 32 bytes.
impl FromFile for HalvesSuper<SmallBytes, 32> {
    fn place(&mut self, lane: usize, block: &[u8]) {
        let (low, high, shares) = (&block[..128], &block[128..192], &block[192..208]);
        self.scales[lane] = bits16(&block[208..]);
        for (index, quants) in self.quants.iter_mut().enumerate() {
            let (half, j) = (index / 4, index % 4);
            let (low, high) = (&low[half * 64 + j % 2 * 32..], &high[half * 32..]);
            let six = |k: usize| ((low[k] >> (j / 2 * 4)) & 15) | (((high[k] >> (2 * j)) & 3) << 4);
            quants.set(lane, &std::array::from_fn(six));
            for part in 0..2 {
                self.scale_shares[index][part][lane] = shares[2 * index + part] as i8;
            }
        }
    }
}
