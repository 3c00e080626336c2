//! Waiting longer each time something fails.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(100);
const LAST: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(crate) struct Backoff(Duration);

impl Backoff {
    pub(crate) fn new() -> Self {
        Backoff(FIRST)
    }

    pub(crate) fn reset(&mut self) {
        *self = Backoff::new();
    }

    /// How long to wait now.
    pub(crate) fn step(&mut self) -> Duration {
        let now = self.0;
        self.0 = (now * 2).min(LAST);
        jittered(now)
    }
}

/// So that many don't come back at the same time.
pub(crate) fn jittered(around: Duration) -> Duration {
    around.mul_f64(0.5 + rand::random::<f64>())
}
