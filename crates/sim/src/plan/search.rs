//! From the goodput of single workers to the cheapest cluster.

use super::{
    Cluster, Configuration, Design, Done, Found, Job, Kind, PhaseGoodput, Plan, PlanError, Planner,
    Runner, Task,
    check::{Checked, MAX_WORKERS},
    phase::Phase,
    report::WorkerGoodput,
};

/// Clusters that are checked beside each other; the same on every machine, for the plan must be.
const WAVE: usize = 4;
/// The most that are checked,
const MOST_CHECKED: usize = 8;
/// and those that are estimated to cost so much more than the cheapest known are not: sharing the load
/// between workers makes up for less.
const SLACK: f64 = 1.3;
/// Configurations a plan tells.
const SHOWN: usize = 6;

/// What workers of a kind take.
#[derive(Clone, Copy, Debug)]
struct Goodputs {
    kind: Kind,
    prefill: PhaseGoodput,
    decode: PhaseGoodput,
    both: PhaseGoodput,
}

impl Planner {
    /// Searches.
    pub fn plan(&self, run: &Runner<'_>) -> Result<Plan, PlanError> {
        let goodputs = self.goodputs(run)?;
        let candidates = self.candidates(&goodputs)?;
        let checked = self.check_all(&candidates, run)?;
        let tried = checked.len();
        let mut good: Vec<&Checked> = checked.iter().filter(|checked| checked.meets).collect();
        if good.is_empty() {
            return Err(self.not_met(&checked));
        }
        good.sort_by(|a, b| self.order(&a.cluster, &b.cluster));
        // Beside the cheapest, the cheapest of the other sort.
        let is_colocated = |c: &Checked| matches!(c.cluster.design, Design::Colocated(_));
        let other = good.iter().position(|c| is_colocated(c) != is_colocated(good[0]));
        if let Some(other) = other.filter(|other| *other >= SHOWN) {
            good.swap(SHOWN - 1, other);
        }
        good.truncate(SHOWN);
        let jobs: Vec<Job> = good.iter().map(|c| Job(Task::Capacity(c.cluster))).collect();
        let mut configurations = Vec::new();
        for (checked, done) in good.iter().zip(run(self, &jobs)) {
            let Done(Found::Capacity(capacity)) = done? else { continue };
            configurations.push(self.configuration(checked, capacity));
        }
        configurations.sort_by(|a, b| {
            let key = |c: &Configuration| (cents(c.price_per_hour), c.devices);
            key(a).cmp(&key(b)).then(b.capacity.total_cmp(&a.capacity))
        });
        let request = &self.request;
        Ok(Plan {
            model: request.profiles[0].model.name.clone(),
            rate: request.rate,
            ttft_ms: request.ttft_ms,
            tpot_ms: request.tpot_ms,
            attainment: request.attainment,
            workers: goodputs.iter().map(|goodputs| self.worker_goodput(goodputs)).collect(),
            configurations,
            designs: candidates.len(),
            checked: tried,
        })
    }

    fn goodputs(&self, run: &Runner<'_>) -> Result<Vec<Goodputs>, PlanError> {
        let kinds = self.kinds();
        let phases = [Phase::Prefill, Phase::Decode, Phase::Both];
        let jobs: Vec<Job> = kinds
            .iter()
            .flat_map(|&kind| phases.map(|phase| Job(Task::Phase(phase, kind))))
            .collect();
        let mut found = Vec::new();
        for done in run(self, &jobs) {
            let Done(Found::Phase(goodput)) = done? else { continue };
            found.push(goodput);
        }
        let (of_kinds, _) = found.as_chunks::<3>();
        let of_kind = |(&kind, &[prefill, decode, both]): (&Kind, &[PhaseGoodput; 3])| Goodputs {
            kind,
            prefill,
            decode,
            both,
        };
        Ok(kinds.iter().zip(of_kinds).map(of_kind).collect())
    }

    /// Every design that can meet the targets, as large as single workers' goodputs say, cheapest
    /// first.
    fn candidates(&self, goodputs: &[Goodputs]) -> Result<Vec<Cluster>, PlanError> {
        let rate = self.request.rate;
        let workers = |goodput: &PhaseGoodput| (rate / goodput.rate).ceil().max(1.0);
        let prefills = || goodputs.iter().filter(|of| of.prefill.rate > 0.0);
        let decodes = || goodputs.iter().filter(|of| of.decode.rate > 0.0);
        let pairs = prefills().flat_map(|prefill| decodes().map(move |decode| (prefill, decode)));
        let apart = pairs.map(|(prefill, decode)| {
            let design = Design::Disaggregated { prefill: prefill.kind, decode: decode.kind };
            (design, [workers(&prefill.prefill), workers(&decode.decode)])
        });
        let together = goodputs.iter().filter(|of| of.both.rate > 0.0);
        let together = together.map(|of| (Design::Colocated(of.kind), [workers(&of.both), 0.0]));
        let sized: Vec<(Design, [f64; 2])> = apart.chain(together).collect();
        let fewest = sized.iter().map(|(_, [a, b])| a + b).min_by(f64::total_cmp);
        let Some(fewest) = fewest else { return Err(self.infeasible(goodputs)) };
        if fewest > f64::from(MAX_WORKERS) {
            return Err(PlanError::TooMany { rate, workers: fewest, most: MAX_WORKERS });
        }
        let mut candidates: Vec<Cluster> = sized
            .into_iter()
            .filter(|(_, [a, b])| a + b <= f64::from(MAX_WORKERS))
            .map(|(design, [a, b])| Cluster { design, workers: [a as u32, b as u32] })
            .collect();
        candidates.sort_by(|a, b| self.order(a, b));
        // The cheapest of both sorts first: each is the other's alternative.
        let other = candidates.iter().position(|candidate| {
            let is_colocated = |c: &Cluster| matches!(c.design, Design::Colocated(_));
            is_colocated(candidate) != is_colocated(&candidates[0])
        });
        if let Some(other) = other {
            candidates[1..=other].rotate_right(1);
        }
        Ok(candidates)
    }

    fn check_all(
        &self,
        candidates: &[Cluster],
        run: &Runner<'_>,
    ) -> Result<Vec<Checked>, PlanError> {
        let mut all: Vec<Checked> = Vec::new();
        for wave in candidates[..candidates.len().min(MOST_CHECKED)].chunks(WAVE) {
            let good = all.iter().filter(|checked| checked.meets);
            let cheapest = good.map(|checked| self.cost(&checked.cluster).1).min_by(f64::total_cmp);
            let most = cheapest.map_or(f64::INFINITY, |price| price * SLACK);
            let affordable = |cluster: &&Cluster| self.cost(cluster).1 <= most;
            let jobs: Vec<Job> =
                wave.iter().filter(affordable).map(|&cluster| Job(Task::Check(cluster))).collect();
            for done in run(self, &jobs) {
                let Done(Found::Check(checked)) = done? else { continue };
                all.push(checked);
            }
        }
        Ok(all)
    }

    /// Cheapest first, then by devices, then as the profiles were given.
    fn order(&self, a: &Cluster, b: &Cluster) -> std::cmp::Ordering {
        let key = |cluster: &Cluster| {
            let (devices, price) = self.cost(cluster);
            (cents(price), devices, cluster.design)
        };
        key(a).cmp(&key(b))
    }

    fn worker_goodput(&self, goodputs: &Goodputs) -> WorkerGoodput {
        let Goodputs { kind, prefill, decode, both } = *goodputs;
        let device = self.profile(kind).device.name.clone();
        let tensor_parallelism = self.tensor(kind);
        WorkerGoodput { device, tensor_parallelism, prefill, decode, colocated: both }
    }

    fn infeasible(&self, goodputs: &[Goodputs]) -> PlanError {
        let request = &self.request;
        let least = |times: &dyn Fn(&Goodputs) -> [Option<f64>; 2]| {
            goodputs.iter().flat_map(times).flatten().min_by(f64::total_cmp)
        };
        let ttft = least(&|of| [of.prefill.idle_ttft_ms, of.both.idle_ttft_ms]);
        let tpot = least(&|of| [of.decode.idle_tpot_ms, of.both.idle_tpot_ms]);
        let Some(nearest_ttft_ms) = ttft else {
            let max_context = request.profiles[0].model.max_context;
            return PlanError::NothingFits { max_context };
        };
        PlanError::Infeasible {
            ttft_ms: request.ttft_ms,
            tpot_ms: request.tpot_ms,
            wanted: 100.0 * request.attainment,
            nearest_ttft_ms,
            nearest_tpot_ms: tpot.unwrap_or(0.0),
        }
    }

    fn not_met(&self, checked: &[Checked]) -> PlanError {
        let best =
            checked.iter().max_by(|a, b| a.measured.attainment.total_cmp(&b.measured.attainment));
        let pools = best.map(|best| self.configuration(best, 0.0).to_string());
        let measured = best.map(|best| best.measured);
        let time = |of: &dyn Fn(&super::Measured) -> Option<f64>| {
            measured.as_ref().and_then(of).unwrap_or(f64::INFINITY)
        };
        PlanError::NotMet {
            rate: self.request.rate,
            best: pools.unwrap_or_default(),
            attainment: 100.0 * measured.map_or(0.0, |measured| measured.attainment),
            wanted: 100.0 * self.request.attainment,
            ttft_ms: time(&|measured| measured.ttft_ms),
            tpot_ms: time(&|measured| measured.tpot_ms),
        }
    }
}

/// Prices that differ by less are equal.
fn cents(price: f64) -> u64 {
    (price * 1e4).round() as u64
}
