use std::fmt;

use baton_types::Role;

/// How many nodes of a role a formula asks for, and why.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Need {
    pub role: Role,
    pub nodes: u32,
    pub reason: Reason,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reason {
    /// Nothing came lately.
    Quiet,
    /// The shares of requests that are predicted to meet the role's objective with the nodes asked for
    /// and with one less.
    Attainment { rate: f64, tokens: f64, with: f64, with_fewer: f64 },
    /// One node's goodput, requests a second.
    Goodput { rate: f64, goodput: f64 },
    /// One node's throughput, tokens a second.
    Throughput { tokens: f64, throughput: f64 },
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Need { role, nodes, reason } = self;
        let (objective, what) = match role {
            Role::Prefill => ("TTFT", "prompt tokens to compute"),
            Role::Decode => ("TPOT", "output tokens"),
        };
        match *reason {
            Reason::Quiet => write!(f, "nothing came lately"),
            Reason::Attainment { rate, tokens, with, with_fewer } => {
                let share = |share: f64| format!("{:.0} %", 100.0 * share);
                write!(
                    f,
                    "{rate:.1} requests/s with {tokens:.0} {what} each: {} meet {objective} on \
                     {nodes}",
                    share(with)
                )?;
                match nodes.checked_sub(1).filter(|fewer| *fewer > 0) {
                    Some(fewer) => write!(f, ", {} on {fewer}", share(with_fewer)),
                    None => Ok(()),
                }
            }
            Reason::Goodput { rate, goodput } => {
                write!(
                    f,
                    "{rate:.1} requests/s, of which a node takes {goodput:.2} within {objective}"
                )
            }
            Reason::Throughput { tokens, throughput } => {
                write!(f, "{tokens:.0} {what} a second, of which a node does {throughput:.0}")
            }
        }
    }
}
