//! A network of hosts that can be cut between any two of them, in one direction or both.
//!
//! Each host is a network namespace with an address on a common bridge. Where it is cut, packets go to an
//! Ethernet address that nobody has: nothing is refused, and nothing comes. Needs root and iproute2.

use std::{
    net::Ipv4Addr,
    process::{self, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use anyhow::{Context, ensure};

/// Nobody's.
const NOBODY: &str = "02:00:00:00:00:99";
/// The number of the host that this process is.
const SELF: u8 = 254;

#[derive(Debug)]
pub(crate) struct Network {
    /// Of the bridge, and the beginning of the hosts'.
    name: String,
    /// The second and third part of the addresses.
    subnet: [u8; 2],
    hosts: u8,
}

impl Network {
    pub(crate) fn new(hosts: u8) -> anyhow::Result<Self> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (pid, count) = (process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let subnet = [64 + (pid >> 8) as u8 % 64, (pid as u8).wrapping_add(count as u8)];
        // From here on dropping takes down what there is.
        let network = Network { name: format!("bt{}x{count}", pid % 1_000_000), subnet, hosts };
        let bridge = &network.name;
        ip(&["link", "add", bridge, "type", "bridge"])?;
        let own = format!("{}/24", network.address(SELF));
        ip(&["addr", "add", &own, "dev", bridge])?;
        ip(&["link", "set", bridge, "up"])?;
        for host in 1..=hosts {
            let (space, port) = (network.space(host), format!("{bridge}p{host}"));
            let address = format!("{}/24", network.address(host));
            ip(&["netns", "add", &space])?;
            let inside = ["peer", "name", "eth0", "netns", &space];
            ip(&[&["link", "add", &port, "type", "veth"], &inside[..]].concat())?;
            ip(&["link", "set", &port, "master", bridge, "up"])?;
            ip(&["-n", &space, "addr", "add", &address, "dev", "eth0"])?;
            ip(&["-n", &space, "link", "set", "eth0", "up"])?;
            ip(&["-n", &space, "link", "set", "lo", "up"])?;
        }
        Ok(network)
    }

    /// Hosts count from 1.
    pub(crate) fn address(&self, host: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, self.subnet[0], self.subnet[1], host)
    }

    /// Runs a program on a host; its process is the program's.
    pub(crate) fn command(&self, host: u8) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(host)]);
        command
    }

    /// What `from` sends to `to` is lost from now on.
    pub(crate) fn cut(&self, from: u8, to: u8) -> anyhow::Result<()> {
        let (space, to) = (self.space(from), self.address(to).to_string());
        let nowhere = ["lladdr", NOBODY, "nud", "permanent", "dev", "eth0"];
        ip(&[&["-n", &space, "neigh", "replace", &to], &nowhere[..]].concat())
    }

    /// It comes there again.
    pub(crate) fn heal(&self, from: u8, to: u8) -> anyhow::Result<()> {
        let (space, to) = (self.space(from), self.address(to).to_string());
        ip(&["-n", &space, "neigh", "del", &to, "dev", "eth0"])
    }

    fn space(&self, host: u8) -> String {
        format!("{}-{host}", self.name)
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for host in 1..=self.hosts {
            let _ = ip(&["netns", "del", &self.space(host)]);
        }
        let _ = ip(&["link", "del", &self.name]);
    }
}

fn ip(args: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(args).stdin(Stdio::null()).output();
    let output = output.context("`ip` of iproute2 can't be started")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`ip {}` failed: {said}", args.join(" "));
    Ok(())
}
