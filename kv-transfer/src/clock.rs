use std::time::Instant;

use baton_types::Time;

/// Where the driver's machines get their time from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Clock(Instant::now())
    }

    pub(crate) fn now(self) -> Time {
        Time::ZERO + self.0.elapsed()
    }

    /// The runtime's instant of `time`.
    pub(crate) fn instant(self, time: Time) -> tokio::time::Instant {
        (self.0 + time.since(Time::ZERO)).into()
    }
}
