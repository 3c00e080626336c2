//! What a step doesn't do again and again.

#![allow(clippy::unwrap_used, unreachable_pub, missing_debug_implementations)]
#![expect(unsafe_code, reason = "an allocator that counts is one")]

mod common;

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use baton_scheduler::{Engine, SampleStep, Sampled, SequenceStep, Unobserved};
use baton_types::{BlockId, SamplingSpec};
use common::{Setup, engine, key, model, prompt};

/// The system's allocator, and how often it was asked.
struct Counting;

static ASKED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: the system's allocator does it all.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ASKED.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Steps of decodes, alone and with a chunk of a prompt, on two threads: after the first ones everything has its place.
#[test]
fn steps_allocate_nothing() {
    const DECODES: u32 = 4;
    const CHUNK: usize = 32;
    let mut engine = engine(&model(), Setup { threads: 2, ..Setup::default() });
    let tokens = prompt(1, 4096);
    let sampling = SamplingSpec { temperature: 0.7, seed: 5, ..SamplingSpec::GREEDY };
    let blocks: Vec<Vec<BlockId>> = (0..=DECODES)
        .map(|sequence| (sequence * 100..(sequence + 1) * 100).map(BlockId).collect())
        .collect();
    let mut sampled: Vec<Sampled> = Vec::new();
    let mut step = |start: usize| {
        let sequences: [SequenceStep<'_>; DECODES as usize + 1] = std::array::from_fn(|index| {
            let len = if index == 0 { CHUNK } else { 1 };
            SequenceStep {
                key: key(index as u128),
                tokens: &tokens[start..start + len],
                start: start as u32,
                blocks: &blocks[index],
                sample: (index > 0).then(|| SampleStep::new(&sampling, start as u32)),
                score: None,
            }
        });
        engine.step(&sequences[1..], &mut Unobserved, &mut sampled).expect("a good step");
        engine.step(&sequences, &mut Unobserved, &mut sampled).expect("a good step");
        assert_eq!(sampled.len(), DECODES as usize);
    };
    (0..3).for_each(|nth| step(nth * CHUNK));
    let before = ASKED.load(Ordering::Relaxed);
    (3..9).for_each(|nth| step(nth * CHUNK));
    assert_eq!(ASKED.load(Ordering::Relaxed) - before, 0, "allocations in twelve steps");
}
