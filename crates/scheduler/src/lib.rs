//! Continuous batching with chunked prefill, and the [`Engine`] it drives. Pure.

mod engine;

pub use engine::{
    Engine, EngineError, EngineInfo, SampleStep, Sampled, SequenceStep, StepObserver, Unobserved,
};
