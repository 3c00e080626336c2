//! What is seen while it runs.
use crate::{
    measure::Window,
    run::{Run, Side},
};
use std::{sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub(crate) struct Live;

impl Live {
    pub(crate) fn new(_wanted: bool, _stop: &CancellationToken) -> Self {
        Live
    }
    pub(crate) fn begin(&mut self, _title: &str, _sides: &Arc<[Side]>, _window: Window) {}
    /// Waits a little, and shows how things are.
    pub(crate) fn look(&mut self, _run: &Run) {
        std::thread::sleep(Duration::from_millis(50));
    }
    #[expect(clippy::print_stderr, reason = "a command line tool speaks there")]
    pub(crate) fn say(&mut self, line: &str) {
        eprintln!("{line}");
    }
    pub(crate) fn close(&mut self) {}
}
