use std::time::Duration;

/// Lets time pass: by sleeping, or by moving a virtual clock.
pub trait Pace: Send {
    fn spend(&mut self, time: Duration);

    /// There was nothing to compute: what is spent next begins when it is asked for.
    fn rest(&mut self) {}
}

/// Lets no time pass.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unpaced;

impl Pace for Unpaced {
    fn spend(&mut self, _time: Duration) {}
}

impl<P: Pace + ?Sized> Pace for Box<P> {
    fn spend(&mut self, time: Duration) {
        (**self).spend(time);
    }

    fn rest(&mut self) {
        (**self).rest();
    }
}
