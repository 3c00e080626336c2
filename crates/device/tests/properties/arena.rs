use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
};

use baton_device::{Arena, PageError, PageRead, PageWrite};
use baton_types::{BlockId, KvDtype, KvLayout};
use proptest::prelude::*;

const LAYERS: u32 = 2;
const BLOCKS: u32 = 3;

fn arena(block_tokens: u32, dtype: KvDtype) -> Arena {
    let layout = KvLayout { layers: LAYERS, kv_heads: 1, head_dim: 16, block_tokens, dtype };
    Arena::new(layout, BLOCKS).expect("a small arena")
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Read(u32, u32),
    Write(u32, u32),
    /// Drops one of the guards held.
    Drop(usize),
}

fn operation() -> impl Strategy<Value = Operation> {
    let page = (0..LAYERS + 1, 0..BLOCKS + 1);
    prop_oneof![
        page.clone().prop_map(|(layer, block)| Operation::Read(layer, block)),
        page.prop_map(|(layer, block)| Operation::Write(layer, block)),
        (0..64_usize).prop_map(Operation::Drop),
    ]
}

enum Guard<'a> {
    Read(PageRead<'a>),
    Write(PageWrite<'a>),
}

proptest! {
    /// one-owner: a guard is given exactly when it conflicts with none that is held, and refusals
    /// say why. What a writer wrote is there for every later reader, and in no other page.
    #[test]
    fn one_owner(operations in prop::collection::vec(operation(), 1..200)) {
        let arena = arena(16, KvDtype::F16);
        let mut held: Vec<((u32, u32), Guard<'_>)> = Vec::new();
        let mut content = [[0_u8; BLOCKS as usize]; LAYERS as usize];
        for (step, operation) in operations.into_iter().enumerate() {
            match operation {
                Operation::Drop(_) if held.is_empty() => {}
                Operation::Drop(which) => drop(held.swap_remove(which % held.len())),
                Operation::Read(layer, block) | Operation::Write(layer, block) => {
                    let on_page = || held.iter().filter(|(page, _)| *page == (layer, block));
                    let readers = on_page()
                        .filter(|(_, guard)| matches!(guard, Guard::Read(_)))
                        .count() as u32;
                    let written = on_page().any(|(_, guard)| matches!(guard, Guard::Write(_)));
                    let write = matches!(operation, Operation::Write(..));
                    let refusal = if layer >= LAYERS || block >= BLOCKS {
                        Some(PageError::Outside { layer, block, layers: LAYERS, blocks: BLOCKS })
                    } else if written {
                        Some(PageError::BeingWritten { layer, block })
                    } else if write && readers > 0 {
                        Some(PageError::BeingRead { layer, block, readers })
                    } else {
                        None
                    };
                    let given = if write {
                        arena.write(layer, BlockId(block)).map(|mut page| {
                            let mark = step as u8;
                            content[layer as usize][block as usize] = mark;
                            page.fill(mark);
                            Guard::Write(page)
                        })
                    } else {
                        arena.read(layer, BlockId(block)).map(Guard::Read)
                    };
                    prop_assert_eq!(given.as_ref().err(), refusal.as_ref());
                    held.extend(given.ok().map(|guard| ((layer, block), guard)));
                }
            }
            for ((layer, block), guard) in &held {
                let bytes: &[u8] = match guard {
                    Guard::Read(page) => page,
                    Guard::Write(page) => page,
                };
                prop_assert_eq!(bytes.len(), arena.layout().page_bytes());
                let mark = content[*layer as usize][*block as usize];
                prop_assert!(bytes.iter().all(|&byte| byte == mark));
            }
        }
    }
}

/// Guards travel between threads, as they do between the tasks of a transfer, and a reader on
/// another thread never sees half a write.
#[test]
fn no_torn_page_between_threads() {
    let arena = arena(256, KvDtype::F32);
    let (stop, torn) = (AtomicBool::new(false), AtomicBool::new(false));
    let seen = AtomicU64::new(0);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    let Ok(page) = arena.read(1, BlockId(1)) else {
                        thread::yield_now();
                        continue;
                    };
                    if page.iter().any(|&byte| byte != page[0]) {
                        torn.store(true, Ordering::Relaxed);
                    }
                    seen.fetch_add(1, Ordering::Relaxed);
                    drop(page);
                    thread::yield_now();
                }
            });
        }
        let mut written = 0_u8;
        while written < 200 || seen.load(Ordering::Relaxed) < 50 {
            let Ok(mut page) = arena.write(1, BlockId(1)) else {
                thread::yield_now();
                continue;
            };
            written = written.saturating_add(1);
            page.fill(written);
            // The writer's guard is dropped by somebody else than its maker.
            scope.spawn(move || drop(page)).join().expect("a thread that only drops");
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(!torn.into_inner(), "a reader saw half a write");
    assert!(arena.write(1, BlockId(1)).is_ok(), "every guard was given back");
}
