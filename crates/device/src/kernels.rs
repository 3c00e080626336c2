//! Which instructions to use, and the kernels compiled for them.

use std::{fmt, str::FromStr};

use crate::{
    arena::{Arena, PageError},
    attention::{AttentionHeads, AttentionScratch, AttentionSequence, attention},
    elementwise::{Activation, Add, GateMul, RmsNorm, Rope},
    matmul::matmul,
    matrix::Matrix,
    pool::ThreadPool,
    quantize::{Activations, Quantize},
    simd::{Kernel, Portable},
    store::StoreKv,
};

/// Sets of instructions that kernels are compiled for. All give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// No instruction beyond the build's baseline; defines the bits.
    Portable,
    /// AVX2, FMA, F16C.
    Avx2,
    /// AVX-512 F, BW, DQ, VL, VNNI.
    Avx512,
    /// The same, and AMX's tiles of bytes.
    Amx,
    /// NEON and its dot product.
    Neon,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IsaError {
    #[error("this CPU has no {isa}; it has {available}")]
    Missing { isa: Isa, available: String },
    #[error("{given:?} is no instruction set; choose portable, avx2, avx512, amx or neon")]
    Unknown { given: String },
}

impl Isa {
    const ALL: [Isa; 5] = [Isa::Portable, Isa::Avx2, Isa::Avx512, Isa::Amx, Isa::Neon];

    /// What this CPU can run, slowest first.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// The fastest this CPU can run.
    pub fn best() -> Isa {
        Isa::available().pop().unwrap_or(Isa::Portable)
    }

    #[cfg(target_arch = "x86_64")]
    fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Avx2 => {
                is_x86_feature_detected!("avx2")
                    && is_x86_feature_detected!("fma")
                    && is_x86_feature_detected!("f16c")
            }
            Isa::Avx512 => {
                Isa::Avx2.is_available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vnni")
            }
            Isa::Amx => Isa::Avx512.is_available() && crate::matmul::tiles::granted(),
            Isa::Neon => false,
        }
    }

    #[cfg(target_arch = "aarch64")]
    fn is_available(self) -> bool {
        match self {
            Isa::Portable => true,
            Isa::Avx2 | Isa::Avx512 | Isa::Amx => false,
            Isa::Neon => std::arch::is_aarch64_feature_detected!("dotprod"),
        }
    }

    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    fn is_available(self) -> bool {
        self == Isa::Portable
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Amx => "amx",
            Isa::Neon => "neon",
        })
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Self, IsaError> {
        Isa::ALL
            .into_iter()
            .find(|isa| isa.to_string() == name)
            .ok_or_else(|| IsaError::Unknown { given: name.to_owned() })
    }
}

/// The kernels, on one set of instructions.
#[derive(Clone, Copy, Debug)]
pub struct Kernels {
    isa: Isa,
}

impl Kernels {
    pub fn new(isa: Isa) -> Result<Self, IsaError> {
        if !isa.is_available() {
            let available: Vec<_> = Isa::available().iter().map(Isa::to_string).collect();
            return Err(IsaError::Missing { isa, available: available.join(", ") });
        }
        Ok(Kernels { isa })
    }

    /// Kernels on instructions that this CPU needn't have: for those who emulate them.
    ///
    /// # Safety
    ///
    /// Whatever of `isa` the CPU lacks is emulated wherever these kernels run.
    pub unsafe fn assume(isa: Isa) -> Self {
        Kernels { isa }
    }

    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Keeps rows `x` (`[n][cols]`) and rounds them to int8 for products with quantised weights.
    pub fn quantize(&self, x: &[f32], cols: usize, out: &mut Activations) {
        out.resize(x.len() / cols, cols);
        let Activations { values, quants, blocks, .. } = out;
        self.run(Quantize { x, values, quants, blocks });
    }

    /// `out[n][matrix.rows()] = x[n][matrix.cols()] · matrixᵀ`.
    pub fn matmul(&self, pool: &mut ThreadPool, matrix: &Matrix, x: &Activations, out: &mut [f32]) {
        matmul(pool, matrix, x, out, |part| match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Kernels::new` found the instructions on this CPU.
            Isa::Amx => unsafe { x86::amx(part) },
            _ => self.run(part),
        });
    }

    /// `out = x · 1/√(mean(x²) + eps) · weight` for every row of `weight.len()`.
    pub fn rms_norm(&self, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
        self.run(RmsNorm { x, weight, eps, out });
    }

    /// `gate = activation(gate) · up`.
    pub fn gate_mul(&self, activation: Activation, gate: &mut [f32], up: &[f32]) {
        self.run(GateMul { activation, gate, up });
    }

    /// `x += y` for every row of `y.len()`.
    pub fn add(&self, x: &mut [f32], y: &[f32]) {
        self.run(Add { x, y });
    }

    /// Turns neighbouring pairs of `x` (`[n][heads][head_dim]`) by their row's position; `table` is
    /// `[position][head_dim / 2]` pairs of cosine and sine.
    pub fn rope(
        &self,
        x: &mut [f32],
        heads: usize,
        head_dim: usize,
        positions: &[u32],
        table: &[(f32, f32)],
    ) {
        self.run(Rope { x, head_dim, heads, positions, table });
    }

    /// Writes a ragged step's keys and values (`[row][kv head][head dim]`), rounded to the cache's
    /// type, into their slots of `layer`. On error some may have been written.
    pub fn store_kv(
        &self,
        arena: &Arena,
        layer: u32,
        sequences: &[AttentionSequence<'_>],
        k: &[f32],
        v: &[f32],
    ) -> Result<(), PageError> {
        self.run(StoreKv { arena, layer, sequences, k, v })
    }

    /// `out[row][head][head dim] = softmax(scale · q·K) · V` for every row of a ragged step, over
    /// the tokens up to its own position that `heads.window` leaves.
    #[allow(clippy::too_many_arguments)]
    pub fn attention(
        &self,
        pool: &mut ThreadPool,
        arena: &Arena,
        layer: u32,
        sequences: &[AttentionSequence<'_>],
        heads: AttentionHeads,
        q: &[f32],
        out: &mut [f32],
        scratch: &mut AttentionScratch,
    ) -> Result<(), PageError> {
        let dispatch = |part: crate::attention::AttentionPart<'_>| self.run(part);
        attention(pool, arena, layer, sequences, heads, q, out, scratch, dispatch)
    }

    #[inline]
    pub(crate) fn run<K: Kernel>(&self, kernel: K) -> K::Output {
        match self.isa {
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `Kernels::new` found the instructions on this CPU.
            Isa::Avx2 => unsafe { x86::avx2(kernel) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Isa::Avx512 | Isa::Amx => unsafe { x86::avx512(kernel) },
            #[cfg(target_arch = "aarch64")]
            // SAFETY: as above.
            Isa::Neon => unsafe { arm::neon(kernel) },
            // `Kernels::new` refuses other architectures' instructions.
            _ => kernel.run(Portable),
        }
    }
}

/// Each kernel, compiled once more with the instructions turned on.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use crate::simd::{Avx2, Avx512, Kernel};

    #[target_feature(enable = "avx2,fma,f16c")]
    pub(super) unsafe fn avx2<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller has the instructions.
        kernel.run(unsafe { Avx2::assume() })
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) unsafe fn avx512<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller has the instructions.
        kernel.run(unsafe { Avx512::<false>::assume() })
    }

    #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
    pub(super) unsafe fn amx<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller has the instructions, and tiles.
        kernel.run(unsafe { Avx512::<true>::assume() })
    }
}

/// Each kernel, compiled once more with the instructions turned on.
#[cfg(target_arch = "aarch64")]
mod arm {
    use crate::simd::{Kernel, Neon};

    #[target_feature(enable = "neon,dotprod")]
    pub(super) unsafe fn neon<K: Kernel>(kernel: K) -> K::Output {
        // SAFETY: the caller has the instructions.
        kernel.run(unsafe { Neon::assume() })
    }
}
