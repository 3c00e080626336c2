//! The simulator against theory, itself, and bad input.

mod scenarios;
mod small;
