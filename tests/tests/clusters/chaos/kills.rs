//! Processes are killed, stopped and cut off at random, for as long as one wants, under clients that go on at any router
//! and compare every token.
//!
//! `BATON_CHAOS_SECONDS` says for how long, `BATON_CHAOS_SEED` which way, and `BATON_SOAK_REPORT` names a file to add
//! what came of it to.

mod report;
mod trouble;

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use baton_tests::{Answer, Apart, Engine, Options, Progress, Reader, Reference};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use self::{report::Report, trouble::Troubles};
use super::{PATIENCE, ask, check, reader};

const CLIENTS: u32 = 12;
const TICK: Duration = Duration::from_millis(25);

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |value| value.parse().unwrap())
}

/// Three nodes of each role and two routers. Who dies here isn't a request's fault.
fn options() -> Options {
    let options = Options::new(Engine::Sim)
        .nodes(3, 3)
        .set("engine.profile.prefill_token_us=200.0")
        .set("engine.profile.decode_us=4000.0")
        .router_set("policy.local_tokens=0")
        .router_set("limits.max_lost_nodes=1000")
        .router_set("limits.max_retries=20");
    Options { routers: 2, ..options }
}

/// Asks one thing after the other until there is to be no more.
fn client(reader: &Reader, next: &AtomicU32, is_over: &AtomicBool) -> Vec<Answer> {
    let (mut reference, mut answers) = (Reference::sim().unwrap(), Vec::new());
    while !is_over.load(Ordering::Relaxed) {
        let variety = next.fetch_add(1, Ordering::Relaxed);
        let mut rng = SmallRng::seed_from_u64(variety.into());
        let asked = ask(variety, rng.random_range(3..400), rng.random_range(1..250));
        let at = rng.random_range(0..reader.urls.len());
        match reader.read(&asked, at, &Progress::default()) {
            Ok(answer) => {
                check(&mut reference, &asked, &answer);
                answers.push(answer);
            }
            Err(error) => {
                // The others needn't go on.
                is_over.store(true, Ordering::Relaxed);
                panic!("request {variety}: {error:#}");
            }
        }
    }
    answers
}

/// Makes trouble while clients ask, and checks that nothing is left of either.
pub(super) fn endure(cluster: Apart, cuts: bool) {
    let lasts = Duration::from_secs(number("BATON_CHAOS_SECONDS", 12));
    let (next, is_over) = (AtomicU32::new(0), AtomicBool::new(false));
    let reader = reader(&cluster);
    let (mut troubles, begun) =
        (Troubles::new(number("BATON_CHAOS_SEED", 1), cuts), Instant::now());
    let mut report = Report::begin(&cluster);
    let (cluster, answers) = (Mutex::new(cluster), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..CLIENTS {
            scope.spawn(|| {
                let own = client(&reader, &next, &is_over);
                answers.lock().unwrap().extend(own);
            });
        }
        while begun.elapsed() < lasts && !is_over.load(Ordering::Relaxed) {
            let mut cluster = cluster.lock().unwrap();
            troubles.pass(&mut cluster);
            report.look(&cluster);
            drop(cluster);
            std::thread::sleep(TICK);
        }
        is_over.store(true, Ordering::Relaxed);
        troubles.end(&mut cluster.lock().unwrap());
    });
    let (cluster, answers) = (cluster.into_inner().unwrap(), answers.into_inner().unwrap());
    cluster.wait_idle(PATIENCE).unwrap();
    report.end(&cluster, &answers, &troubles, begun.elapsed());
}

#[test]
fn whoever_ends_or_stops_at_random_costs_nobody_a_token() {
    endure(Apart::beside(&options()).unwrap(), false);
}

/// With networks of their own, which are cut.
pub(super) fn apart() -> Apart {
    Apart::start(&options()).unwrap()
}
