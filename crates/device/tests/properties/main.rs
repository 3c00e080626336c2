//! The device crate's promises, under random shapes and values: the same bits on every instruction
//! set, with any number of threads, in any chunking; pages with one owner; and no panic whatever
//! the numbers are.

mod arena;
mod attention;
mod elementwise;
mod hostile;
mod pooled;
mod products;
mod random;
mod reference;
