//! When does a part of the cluster leave? On Ctrl-C, on SIGTERM, or when whoever started it is
//! gone.
//!
//! A parent that is killed can't say goodbye, but its end of the pipe to a child's standard input
//! closes with it, whatever ended it.

use std::{
    io::{self, Read},
    time::Duration,
};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// How long a part whose parent is gone may take to leave in order.
const GRACE: Duration = Duration::from_secs(4);

/// A token that is cancelled on SIGINT and SIGTERM, and, if `follow_stdin`, at the end of standard
/// input. An orderly end may wait for requests; without a parent it may not wait long.
pub(crate) fn shutdown(follow_stdin: bool) -> io::Result<CancellationToken> {
    let token = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let asked = token.clone();
    #[expect(clippy::disallowed_methods, reason = "listens as long as the process lives")]
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        asked.cancel();
    });
    if follow_stdin {
        let gone = token.clone();
        std::thread::Builder::new().name("leash".to_owned()).spawn(move || {
            wait_for_end(io::stdin().lock());
            gone.cancel();
            std::thread::sleep(GRACE);
            std::process::exit(1);
        })?;
    }
    Ok(token)
}

fn wait_for_end(mut input: impl Read) {
    let mut ignored = [0; 64];
    loop {
        match input.read(&mut ignored) {
            Ok(0) => return,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}
