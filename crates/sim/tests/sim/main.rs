//! The simulator against theory, itself, and bad input.

mod bad_input;
mod faults;
mod hour;
mod measure;
mod memory;
mod moving;
mod plan;
mod prefixes;
mod profiles;
mod properties;
mod roles;
mod scaling;
mod scenarios;
mod small;
mod theory;
