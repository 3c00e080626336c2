//! What the machine can do at most, as JSON: `peaks THREADS MEGABYTES`. Bytes read a second of a buffer of that size, again
//! and again; products of int8 and of f32 a second with what the fastest kernels are made of, all in registers.
#![allow(clippy::print_stdout)]

use std::{hint::black_box, thread, time::Instant};

use baton_device::Isa;

/// Each measurement's best of so many.
const TIMES: usize = 7;

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let [threads, megabytes] = args[..] else { panic!("usage: peaks THREADS MEGABYTES") };
    let words = megabytes * 1_000_000 / 8;
    let buffer: Vec<u64> = (0..words as u64).collect();
    let read = best(threads, |thread| {
        let each = words / threads;
        black_box(sum(&buffer[thread * each..][..each]));
        (each * 8) as f64
    });
    let mut rows = vec![row("peak_read", read / 1e9, "GB/s")];
    for (name, unit, rate) in [
        ("peak_int8", "GOP/s", best(threads, |_| products::int8(Isa::best())) / 1e9),
        ("peak_f32", "GFLOP/s", best(threads, |_| products::f32(Isa::best())) / 1e9),
    ] {
        if rate > 0.0 {
            rows.push(row(name, rate, unit));
        }
    }
    println!("[{}]", rows.join(","));
}

fn row(name: &str, value: f64, unit: &str) -> String {
    format!(r#"{{"name":"{name}","value":{value:.2},"unit":"{unit}"}}"#)
}

/// What all threads do a second: `work` says how much one call did.
fn best(threads: usize, work: impl Fn(usize) -> f64 + Sync) -> f64 {
    let once = || {
        let begin = Instant::now();
        let done: f64 = thread::scope(|scope| {
            let work = &work;
            let running: Vec<_> =
                (0..threads).map(|thread| scope.spawn(move || work(thread))).collect();
            running.into_iter().map(|thread| thread.join().expect("it ends")).sum()
        });
        done / begin.elapsed().as_secs_f64()
    };
    (0..TIMES).map(|_| once()).fold(0.0, f64::max)
}

/// With the widest loads there are.
fn sum(words: &[u64]) -> u64 {
    match Isa::best() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `Isa::best` found the instructions.
        Isa::Avx512 | Isa::Amx => unsafe { products::sum_avx512(words) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { products::sum_avx2(words) },
        _ => side_by_side(words),
    }
}

/// Many sums, so that none waits for another.
#[inline(always)]
fn side_by_side(words: &[u64]) -> u64 {
    let mut sums = [0_u64; 64];
    for chunk in words.chunks_exact(64) {
        sums.iter_mut().zip(chunk).for_each(|(sum, word)| *sum = sum.wrapping_add(*word));
    }
    sums.iter().fold(0, |all, sum| all.wrapping_add(*sum))
}

#[cfg(target_arch = "x86_64")]
mod products {
    use std::{
        arch::{asm, x86_64::*},
        hint::black_box,
    };

    use baton_device::Isa;

    #[target_feature(enable = "avx512f")]
    pub(super) fn sum_avx512(words: &[u64]) -> u64 {
        super::side_by_side(words)
    }

    #[target_feature(enable = "avx2")]
    pub(super) fn sum_avx2(words: &[u64]) -> u64 {
        super::side_by_side(words)
    }

    /// As many sums side by side as hide one instruction's latency.
    const SIDE: usize = 12;
    const ROUNDS: usize = 2_000_000;

    /// Operations done, a product and its addition counted as two; 0 where there is no kernel to compare with.
    pub(super) fn int8(isa: Isa) -> f64 {
        match isa {
            // SAFETY: `Isa::best` found the instructions.
            Isa::Amx => unsafe { int8_amx() },
            // SAFETY: as above.
            Isa::Avx512 => unsafe { int8_avx512() },
            // SAFETY: as above.
            Isa::Avx2 => unsafe { int8_avx2() },
            _ => 0.0,
        }
    }

    pub(super) fn f32(isa: Isa) -> f64 {
        match isa {
            // SAFETY: `Isa::best` found the instructions.
            Isa::Avx512 | Isa::Amx => unsafe { f32_avx512() },
            // SAFETY: as above.
            Isa::Avx2 => unsafe { f32_avx2() },
            _ => 0.0,
        }
    }

    /// Whole tiles, four sums side by side.
    ///
    /// # Safety
    ///
    /// There are tiles, granted to this process.
    unsafe fn int8_amx() -> f64 {
        #[repr(align(64))]
        struct Shapes([u8; 64]);
        // Palette 1; eight tiles of 16 rows of 64 bytes.
        let mut shapes = Shapes([0; 64]);
        shapes.0[0] = 1;
        for tile in 0..8 {
            (shapes.0[16 + 2 * tile], shapes.0[48 + tile]) = (64, 16);
        }
        // SAFETY: the caller's promise; no memory but the shapes is read.
        unsafe {
            asm!("ldtilecfg [{}]", in(reg) &raw const shapes, options(readonly, nostack));
            for _ in 0..ROUNDS {
                asm!(
                    "tdpbssd tmm0, tmm4, tmm5",
                    "tdpbssd tmm1, tmm4, tmm6",
                    "tdpbssd tmm2, tmm7, tmm5",
                    "tdpbssd tmm3, tmm7, tmm6",
                    options(nomem, nostack, preserves_flags),
                );
            }
            asm!("tilerelease", options(nomem, nostack));
        }
        (ROUNDS * 4 * 16 * 16 * 64 * 2) as f64
    }

    #[target_feature(enable = "avx512f,avx512vnni")]
    fn int8_avx512() -> f64 {
        let (w, a) = (black_box(_mm512_set1_epi8(1)), black_box(_mm512_set1_epi8(2)));
        let mut sums = [_mm512_setzero_si512(); SIDE];
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_dpbusd_epi32(*sum, w, a));
        }
        black_box(sums);
        (ROUNDS * SIDE * 64 * 2) as f64
    }

    #[target_feature(enable = "avx2")]
    fn int8_avx2() -> f64 {
        let (w, a) = (black_box(_mm256_set1_epi8(1)), black_box(_mm256_set1_epi8(2)));
        let one = _mm256_set1_epi16(1);
        let mut sums = [_mm256_setzero_si256(); SIDE];
        for _ in 0..ROUNDS {
            for sum in &mut sums {
                let pairs = _mm256_maddubs_epi16(_mm256_xor_si256(w, *sum), a);
                *sum = _mm256_add_epi32(*sum, _mm256_madd_epi16(pairs, one));
            }
        }
        black_box(sums);
        (ROUNDS * SIDE * 32 * 2) as f64
    }

    #[target_feature(enable = "avx512f")]
    fn f32_avx512() -> f64 {
        let (x, y) = (black_box(_mm512_set1_ps(0.5)), black_box(_mm512_set1_ps(1.0)));
        let mut sums = [_mm512_setzero_ps(); SIDE];
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm512_fmadd_ps(*sum, x, y));
        }
        black_box(sums);
        (ROUNDS * SIDE * 16 * 2) as f64
    }

    #[target_feature(enable = "avx2,fma")]
    fn f32_avx2() -> f64 {
        let (x, y) = (black_box(_mm256_set1_ps(0.5)), black_box(_mm256_set1_ps(1.0)));
        let mut sums = [_mm256_setzero_ps(); SIDE];
        for _ in 0..ROUNDS {
            sums.iter_mut().for_each(|sum| *sum = _mm256_fmadd_ps(*sum, x, y));
        }
        black_box(sums);
        (ROUNDS * SIDE * 8 * 2) as f64
    }
}

#[cfg(not(target_arch = "x86_64"))]
mod products {
    use baton_device::Isa;

    pub(super) fn int8(_: Isa) -> f64 {
        0.0
    }

    pub(super) fn f32(_: Isa) -> f64 {
        0.0
    }
}
