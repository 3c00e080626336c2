//! Where the processes of a cluster stand that are started one by one.

use std::{
    ffi::OsStr,
    net::Ipv4Addr,
    process::{self, Command},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::bail;

use crate::network::Network;

/// Gives each process an address of its own, so that all may listen on the same ports.
#[derive(Debug)]
pub(crate) enum Ground {
    /// Nothing can be cut here, and nothing is needed for it.
    Loopback {
        /// The second and third part of the addresses.
        subnet: [u8; 2],
    },
    Network(Network),
}

impl Ground {
    pub(crate) fn loopback() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (pid, count) = (process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        Ground::Loopback {
            subnet: [64 + (pid >> 8) as u8 % 64, (pid as u8).wrapping_add(count as u8)],
        }
    }

    pub(crate) fn network(hosts: u8) -> anyhow::Result<Self> {
        Ok(Ground::Network(Network::new(hosts)?))
    }

    pub(crate) fn address(&self, host: u8) -> Ipv4Addr {
        match self {
            Ground::Loopback { subnet: [second, third] } => {
                Ipv4Addr::new(127, *second, *third, host)
            }
            Ground::Network(network) => network.address(host),
        }
    }

    /// Runs a program there; its process is the program's.
    pub(crate) fn command(&self, host: u8, program: impl AsRef<OsStr>) -> Command {
        match self {
            Ground::Loopback { .. } => Command::new(program),
            Ground::Network(network) => {
                let mut command = network.command(host);
                command.arg(program);
                command
            }
        }
    }

    pub(crate) fn cut(&self, from: u8, to: u8) -> anyhow::Result<()> {
        match self {
            Ground::Loopback { .. } => bail!("loopback can't be cut"),
            Ground::Network(network) => network.cut(from, to),
        }
    }

    pub(crate) fn heal(&self, from: u8, to: u8) -> anyhow::Result<()> {
        match self {
            Ground::Loopback { .. } => bail!("loopback can't be cut"),
            Ground::Network(network) => network.heal(from, to),
        }
    }
}
