//! From outcomes to figures.

mod bootstrap;
mod histogram;
mod recorder;
mod slices;
mod slowest;

pub(crate) use self::{
    bootstrap::{BLOCKS, Estimate, Intervals},
    histogram::{Bucket, Distribution, Histogram},
    recorder::{Parts, Recorder, Totals, Window},
    slices::Slice,
};
