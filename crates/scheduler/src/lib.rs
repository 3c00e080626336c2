//! Continuous batching with chunked prefill, and the [`Engine`] it drives. Pure.
//!
//! # How is it driven?
//!
//! One thread owns a [`Scheduler`] and an [`Engine`] and goes round: [`Scheduler::submit`] and
//! [`Scheduler::cancel`] whatever arrived, [`Scheduler::compose`] the next step,
//! [`Scheduler::with_sequences`] run it on the engine, [`Scheduler::complete`] it (or
//! [`Scheduler::fail_step`]), and deliver the [`Event`]s. When nothing can be composed the thread
//! waits for a message, for a block given back, or for [`Scheduler::next_deadline`].
//!
//! # Who runs when?
//!
//! Prompts are computed in the order in which their first tokens are due, of equals in order of
//! arrival: a long prompt pauses at a step's boundary for one that is due before it. What is overdue
//! lets those go first that can be in time, and goes before those that don't say. A step holds one
//! token of every decoding sequence, then prefill chunks as far as the token budget goes. A sequence
//! is admitted when its whole prompt has blocks; while the first in line lacks some it collects what
//! becomes free, so that nobody behind it takes them. Decoding sequences grow block by block; when
//! none is free the youngest is preempted: it gives its blocks back and is later computed again from
//! its tokens, which `same-tokens` makes invisible. Sequences whose pages were imported already hold
//! their memory and join before anybody still waiting for some.

mod compose;
mod engine;
mod event;
mod freezing;
mod outcome;
mod scheduler;
mod sequence;
pub mod sim;
mod step;
mod submission;

pub use engine::{
    Engine, EngineError, EngineInfo, SampleStep, Sampled, ScoreStep, SequenceStep, StepObserver,
    Unobserved,
};
pub use event::{Event, SequenceError};
pub use freezing::Snapshot;
pub use scheduler::{Load, Scheduler, SchedulerConfig};
pub use submission::{Goal, ImportedToken, Refusal, Start, Submission};
