//! Faults on a schedule: commands that are run while requests are on their way.

use std::{
    process::{Command, Stdio},
    str::FromStr,
    thread,
    time::{Duration, Instant},
};

use baton_workload::parse_duration;
use tokio_util::sync::CancellationToken;

use crate::report::FaultReport;

/// A command for the shell, and when it is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub at: Duration,
    pub command: String,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is no fault: {why}; write it like 5s:kill -9 1234")]
pub struct FaultError {
    given: String,
    why: String,
}

impl FromStr for Fault {
    type Err = FaultError;

    fn from_str(given: &str) -> Result<Self, FaultError> {
        let wrong = |why: String| FaultError { given: given.to_owned(), why };
        let (at, command) = given
            .split_once(':')
            .ok_or_else(|| wrong("it has no time before a colon".to_owned()))?;
        let at = parse_duration(at.trim()).map_err(|error| wrong(error.to_string()))?;
        let command = command.trim().to_owned();
        if command.is_empty() {
            return Err(wrong("it has no command".to_owned()));
        }
        Ok(Fault { at, command })
    }
}

/// Runs each at its time, in order, until it is stopped; tells when each was begun and how it ended.
pub(crate) fn play(faults: &[Fault], begin: Instant, stop: &CancellationToken) -> Vec<FaultReport> {
    let mut in_order: Vec<&Fault> = faults.iter().collect();
    in_order.sort_by_key(|fault| fault.at);
    let mut reports = Vec::new();
    thread::scope(|scope| {
        let mut running = Vec::new();
        for fault in in_order {
            crate::run::sleep_until(begin + fault.at, stop);
            if stop.is_cancelled() {
                break;
            }
            // One that takes long doesn't hold up the others.
            running.push(scope.spawn(|| run(fault, begin)));
        }
        reports.extend(running.into_iter().filter_map(|thread| thread.join().ok()));
    });
    reports
}

fn run(fault: &Fault, begin: Instant) -> FaultReport {
    let at_s = begin.elapsed().as_secs_f64();
    let command = fault.command.clone();
    let output = Command::new("sh")
        .args(["-c", &command])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output();
    match output {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).trim().chars().take(500).collect();
            FaultReport { at_s, command, status: output.status.code(), said }
        }
        Err(error) => FaultReport { at_s, command, status: None, said: error.to_string() },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_read() {
        let fault: Fault = "1.5s: kill -9 7; echo a:b".parse().unwrap();
        assert_eq!(fault.at, Duration::from_millis(1500));
        assert_eq!(fault.command, "kill -9 7; echo a:b");
        for (given, why) in [("kill", "no time"), ("5: true", "5"), ("5s: ", "no command")] {
            let error = given.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }

    #[test]
    fn commands_run_at_their_times() {
        let faults: Vec<Fault> = ["50ms: exit 3", "0s: echo no >&2"]
            .into_iter()
            .map(|text| text.parse().unwrap())
            .collect();
        let said = play(&faults, Instant::now(), &CancellationToken::new());
        let told: Vec<_> = said.iter().map(|fault| (fault.status, fault.said.as_str())).collect();
        assert_eq!(told, [(Some(0), "no"), (Some(3), "")]);
        assert!(said[1].at_s >= 0.05);
    }
}
