//! Where randomness comes from: streams of one seed, one for each purpose, so that two scenarios
//! that differ in nothing but the policy still see the same arrivals.

use rand_core::{RngCore, SeedableRng};
use rand_xoshiro::Xoshiro256PlusPlus;

/// The generator: small, quick and the same on every machine.
pub type Draws = Xoshiro256PlusPlus;

/// What a stream of draws is for. The numbers are part of what a seed means: none is given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Arrivals = 1,
    Lengths = 2,
    Contents = 3,
    Policy = 4,
    Noise = 5,
    Moves = 6,
    Faults = 7,
    Classes = 8,
    Bootstrap = 9,
}

/// The draws of `purpose` under `seed`.
pub fn draws(seed: u64, purpose: Purpose) -> Draws {
    Draws::seed_from_u64(mix(seed ^ mix(purpose as u64)))
}

/// From [0, 1).
pub fn unit(rng: &mut impl RngCore) -> f64 {
    (rng.next_u64() >> 11) as f64 / (1_u64 << 53) as f64
}

/// SplitMix64's finaliser: a bijection that leaves no pattern.
pub const fn mix(value: u64) -> u64 {
    let z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
