//! The plan for people.

use std::fmt;

use baton_sim::plan::{Configuration, Plan};

use crate::table::Table;

pub(crate) struct Text<'a>(pub(crate) &'a Plan);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Plan { model, rate, ttft_ms, tpot_ms, attainment, designs, checked, .. } = self.0;
        writeln!(
            f,
            "{model}: {rate} requests/s, {:.0} % of them within TTFT {ttft_ms} ms and TPOT {tpot_ms} ms\n",
            100.0 * attainment
        )?;
        let mut workers = Table::new(["one worker", "prefill", "decode", "colocated"]);
        for worker in &self.0.workers {
            let goodput = |rate: f64| match rate {
                0.0 => "misses".to_owned(),
                rate => format!("{rate:.2}/s"),
            };
            workers.row([
                format!("{} TP{}", worker.device, worker.tensor_parallelism),
                goodput(worker.prefill.rate),
                goodput(worker.decode.rate),
                goodput(worker.colocated.rate),
            ]);
        }
        writeln!(f, "{workers}")?;
        let mut table = Table::new([
            "configuration",
            "devices",
            "price/h",
            "capacity/device",
            "TTFT P90",
            "TPOT P90",
            "attained",
        ]);
        for configuration in &self.0.configurations {
            let Configuration { devices, price_per_hour, capacity_per_device, .. } = configuration;
            let time = |ms: Option<f64>| ms.map_or("–".to_owned(), |ms| format!("{ms:.1} ms"));
            table.row([
                configuration.to_string(),
                devices.to_string(),
                format!("{price_per_hour:.2}"),
                format!("{capacity_per_device:.3}/s"),
                time(configuration.ttft_p90_ms),
                time(configuration.tpot_p90_ms),
                format!("{:.1} %", 100.0 * configuration.attainment),
            ]);
        }
        writeln!(f, "{table}")?;
        writeln!(f, "{checked} of {designs} designs simulated whole")?;
        let Some(best) = self.0.best() else { return Ok(()) };
        writeln!(
            f,
            "plan: {best}: {:.2} an hour, takes up to {:.2} requests/s",
            best.price_per_hour, best.capacity
        )?;
        if best.pools.iter().any(|pool| pool.tensor_parallelism > 1) {
            writeln!(
                f,
                "      hypothetical: Baton's engine runs one device a node today, no tensor parallelism"
            )?;
        }
        Ok(())
    }
}
