//! The plan, to be read by machines; the command line prints it for people.

use serde::Serialize;

use super::{Cluster, Design, Kind, Measured, PhaseGoodput, Planner, check::Checked};

/// The cheapest configurations that meet the targets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Plan {
    pub model: String,
    /// Requests a second.
    pub rate: f64,
    pub ttft_ms: f64,
    pub tpot_ms: f64,
    /// Share of requests that must meet both.
    pub attainment: f64,
    /// What one worker of each kind can take.
    pub workers: Vec<WorkerGoodput>,
    /// Cheapest first: the first is the plan.
    pub configurations: Vec<Configuration>,
    /// Designs that could meet the targets, and how many of them were simulated whole.
    pub designs: usize,
    pub checked: usize,
}

/// What one worker takes alone, requests a second; 0 if it misses the targets even when idle.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct WorkerGoodput {
    pub device: String,
    pub tensor_parallelism: u32,
    pub prefill: PhaseGoodput,
    pub decode: PhaseGoodput,
    pub colocated: PhaseGoodput,
}

/// A cluster that meets the targets at the rate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Configuration {
    pub pools: Vec<Pool>,
    pub devices: u32,
    pub price_per_hour: f64,
    /// At the rate: share of requests that met both targets, and P90 of both times.
    pub attainment: f64,
    pub ttft_p90_ms: Option<f64>,
    pub tpot_p90_ms: Option<f64>,
    /// The highest rate at which it meets them, requests a second.
    pub capacity: f64,
    pub capacity_per_device: f64,
}

/// Equal workers.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Pool {
    /// `prefill`, `decode` or `colocated`.
    pub role: &'static str,
    pub device: String,
    pub tensor_parallelism: u32,
    pub workers: u32,
}

impl Plan {
    /// As one object.
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).unwrap_or_default()
    }

    pub fn best(&self) -> Option<&Configuration> {
        self.configurations.first()
    }
}

impl Configuration {
    /// Whether phases have workers of their own.
    pub fn is_disaggregated(&self) -> bool {
        self.pools.len() > 1
    }
}

impl std::fmt::Display for Configuration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pools: Vec<String> = self.pools.iter().map(Pool::to_string).collect();
        f.write_str(&pools.join(" + "))
    }
}

impl std::fmt::Display for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Pool { role, device, tensor_parallelism, workers } = self;
        write!(f, "{workers} {role} {device} TP{tensor_parallelism}")
    }
}

impl Planner {
    pub(super) fn pools(&self, cluster: &Cluster) -> Vec<Pool> {
        let pool = |role, kind: Kind, workers| Pool {
            role,
            device: self.profile(kind).device.name.clone(),
            tensor_parallelism: self.tensor(kind),
            workers,
        };
        let [first, second] = cluster.workers;
        match cluster.design {
            Design::Disaggregated { prefill, decode } => {
                vec![pool("prefill", prefill, first), pool("decode", decode, second)]
            }
            Design::Colocated(kind) => vec![pool("colocated", kind, first)],
        }
    }

    /// Devices, and their price per hour.
    pub(super) fn cost(&self, cluster: &Cluster) -> (u32, f64) {
        let kinds = match cluster.design {
            Design::Disaggregated { prefill, decode } => vec![prefill, decode],
            Design::Colocated(kind) => vec![kind],
        };
        let pools = || kinds.iter().zip(cluster.workers);
        let devices = pools().map(|(kind, workers)| self.tensor(*kind) * workers).sum();
        let price = pools().map(|(kind, workers)| self.price(*kind) * f64::from(workers)).sum();
        (devices, price)
    }

    pub(super) fn configuration(&self, checked: &Checked, capacity: f64) -> Configuration {
        let (devices, price_per_hour) = self.cost(&checked.cluster);
        let Measured { attainment, ttft_ms, tpot_ms, .. } = checked.measured;
        Configuration {
            pools: self.pools(&checked.cluster),
            devices,
            price_per_hour,
            attainment,
            ttft_p90_ms: ttft_ms,
            tpot_p90_ms: tpot_ms,
            capacity,
            capacity_per_device: capacity / f64::from(devices.max(1)),
        }
    }
}
