//! The process's monotonic clock in the domain's terms.

use std::time::Instant;

use baton_types::Time;

/// Reads the time since this clock was started. Copies agree with each other.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Clock { origin: Instant::now() }
    }

    pub fn now(&self) -> Time {
        Time::ZERO + self.origin.elapsed()
    }
}
