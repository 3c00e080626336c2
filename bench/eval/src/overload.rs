//! More than a cluster can serve: how many requests still meet both targets.

use std::fmt::Write;

use rayon::prelude::*;

use crate::{search::EvalError, traces::Compared};

/// Offered rates, in capacities of the joint policy.
const LOADS: [f64; 6] = [0.5, 0.75, 1.0, 1.25, 1.5, 2.0];

/// Of each cell the joint policy and the best baseline.
pub(crate) fn section(compared: &[&Compared]) -> Result<String, EvalError> {
    let mut out = String::from("| workers | trace | policy |");
    out.extend(LOADS.iter().map(|load| format!(" {load} × |")));
    out += " at 2 × over peak |\n| --- | --- | --- |";
    out.extend(LOADS.iter().map(|_| " --- |"));
    out += " --- |\n";
    for one in compared {
        let capacity = one.joint.rate.mean;
        for best in [&one.joint, &one.baseline] {
            let run = |load: &f64| {
                let world = &one.cell.world;
                Ok(world.run(best.system, best.prefill, 0, load * capacity)?.goodput)
            };
            let goodputs: Result<Vec<f64>, EvalError> = LOADS.par_iter().map(run).collect();
            let goodputs = goodputs?;
            let peak = goodputs.iter().copied().fold(0.0, f64::max);
            let _ = write!(
                out,
                "| {} | {}, {} | {} |",
                one.cell.world.workers,
                one.cell.trace,
                one.cell.slo(),
                best.system.name()
            );
            out.extend(goodputs.iter().map(|goodput| format!(" {goodput:.1} |")));
            let last = goodputs.last().copied().unwrap_or_default();
            let _ = writeln!(out, " {:.2} |", last / peak);
        }
    }
    Ok(out)
}
