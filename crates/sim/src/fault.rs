//! What goes wrong, and when.

use serde::{Deserialize, Serialize};

/// The router's name in faults; nodes have those of their topology.
pub(crate) const ROUTER: &str = "router";

/// A scripted fault. Times are seconds since the start.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// A worker ends and everything on it is lost. Its connections break at once, as a dead process's
    /// do; or, when `silent`, nobody hears of it, as of a machine without power, until leases end.
    Crash {
        node: String,
        at_s: f64,
        /// It starts again, empty, so much later.
        #[serde(default)]
        restart_after_s: Option<f64>,
        #[serde(default)]
        silent: bool,
    },
    /// A worker's steps that begin in this time take `factor` times as long.
    Slow { node: String, from_s: f64, to_s: f64, factor: f64 },
    /// Nothing passes between two parts; what is sent meanwhile arrives when they are joined again.
    Cut { a: String, b: String, from_s: f64, to_s: f64 },
    /// The first message from one part to the other after `after_s` is lost, and with it the stream it
    /// was on: both ends hear of that. A heartbeat is only missing.
    Lose { from: String, to: String, after_s: f64 },
    /// Any message in this time may be lost, with probability `lose`, and comes up to `late_s` late. What is
    /// on a stream comes in order or breaks it; the words of live migration may overtake each other, and each
    /// comes twice with probability `double`.
    Storm { from_s: f64, to_s: f64, lose: f64, double: f64, late_s: f64 },
}

#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FaultError {
    #[error("a fault names {given:?}; there are {known}")]
    Unknown { given: String, known: String },
    #[error("a fault's {name} is {given}; it must be {must}")]
    Value { name: &'static str, given: f64, must: &'static str },
    #[error("a fault concerns the link from {a:?} to itself")]
    Loop { a: String },
}

impl Fault {
    pub(crate) fn validate(&self, nodes: &[String]) -> Result<(), FaultError> {
        let time = |name, given: f64| match (0.0..=1e9).contains(&given) {
            true => Ok(()),
            false => Err(FaultError::Value { name, given, must: "seconds from 0 to 1e9" }),
        };
        let node = |given: &String| match nodes.contains(given) {
            true => Ok(()),
            false => Err(unknown(given, nodes)),
        };
        let part = |given: &String| if given == ROUTER { Ok(()) } else { node(given) };
        let ends = |a: &String, b: &String| {
            part(a)?;
            part(b)?;
            if a == b { Err(FaultError::Loop { a: a.clone() }) } else { Ok(()) }
        };
        let span = |from, to: f64| {
            time("from_s", from)?;
            time("to_s", to)?;
            let must = "after from_s";
            if to > from {
                Ok(())
            } else {
                Err(FaultError::Value { name: "to_s", given: to, must })
            }
        };
        match self {
            Fault::Crash { node: name, at_s, restart_after_s, .. } => {
                node(name)?;
                time("at_s", *at_s)?;
                restart_after_s.map_or(Ok(()), |after| time("restart_after_s", after))
            }
            Fault::Slow { node: name, from_s, to_s, factor } => {
                node(name)?;
                span(*from_s, *to_s)?;
                if *factor > 0.0 && factor.is_finite() {
                    return Ok(());
                }
                let must = "a number above 0";
                Err(FaultError::Value { name: "factor", given: *factor, must })
            }
            Fault::Storm { from_s, to_s, lose, double, late_s } => {
                span(*from_s, *to_s)?;
                time("late_s", *late_s)?;
                for (name, given) in [("lose", *lose), ("double", *double)] {
                    if !(0.0..=1.0).contains(&given) {
                        let must = "a probability, from 0 to 1";
                        return Err(FaultError::Value { name, given, must });
                    }
                }
                Ok(())
            }
            Fault::Cut { a, b, from_s, to_s } => {
                ends(a, b)?;
                span(*from_s, *to_s)
            }
            Fault::Lose { from, to, after_s } => {
                ends(from, to)?;
                time("after_s", *after_s)
            }
        }
    }
}

fn unknown(given: &str, nodes: &[String]) -> FaultError {
    let shown: Vec<&str> = nodes.iter().map(String::as_str).take(8).collect();
    let more = if nodes.len() > shown.len() { ", …" } else { "" };
    let known = format!("{}{more}, and {ROUTER} for links", shown.join(", "));
    FaultError::Unknown { given: given.to_owned(), known }
}
