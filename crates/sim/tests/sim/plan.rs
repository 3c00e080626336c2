//! Plans against brute force, and what can't be planned.

use baton_sim::{
    plan::{
        Cluster, Design, DeviceProfile, Kind, Plan, PlanError, PlanRequest, Planner,
        roofline::catalogue,
    },
    workload::{Lengths, WorkloadConfig},
};

fn profile(file: &str) -> DeviceProfile {
    let found = catalogue().into_iter().find(|sourced| sourced.file == file);
    found.unwrap_or_else(|| panic!("no profile {file}")).profile
}

/// One device a worker: prompts of 500 tokens, outputs of 20.
fn request(files: &[&str], rate: f64) -> PlanRequest {
    let mut profiles: Vec<DeviceProfile> = files.iter().map(|file| profile(file)).collect();
    for profile in &mut profiles {
        profile.parallelism.truncate(1);
        profile.scheduler.max_running = 64;
        profile.colocated_scheduler.max_running = 64;
    }
    let workload = WorkloadConfig {
        prompt: Lengths::Fixed { tokens: 500 },
        output: Lengths::Fixed { tokens: 20 },
        ..WorkloadConfig::default()
    };
    PlanRequest {
        profiles,
        workload,
        trace: None,
        ttft_ms: 250.0,
        tpot_ms: 40.0,
        attainment: 0.9,
        rate,
        seed: 1,
    }
}

fn plan(request: &PlanRequest) -> Result<Plan, PlanError> {
    Planner::new(request.clone())?.plan(&Planner::run_all)
}

#[track_caller]
fn refused(request: &PlanRequest, told: &[&str]) {
    let error = plan(request).expect_err("no plan").to_string();
    for part in told {
        assert!(error.contains(part), "{error:?} doesn't tell {part:?}");
    }
}

#[test]
fn the_plan_is_the_cheapest_of_all_small_clusters() {
    let request = request(&["llama-3-8b-a100-80gb", "llama-3-8b-h100-80gb"], 30.0);
    let best = plan(&request).unwrap().configurations.remove(0);

    let planner = Planner::new(request.clone()).unwrap();
    let price = |profile: usize| request.profiles[profile].device.price_per_hour;
    let mut clusters = Vec::new();
    for a in 0..2 {
        let kind = |profile| Kind { profile, parallelism: 0 };
        for first in 1..=4 {
            let together = Cluster { design: Design::Colocated(kind(a)), workers: [first, 0] };
            clusters.push((f64::from(first) * price(a), together));
            for (b, second) in (0..2).flat_map(|b| (1..=3).map(move |second| (b, second))) {
                let design = Design::Disaggregated { prefill: kind(a), decode: kind(b) };
                let cost = f64::from(first) * price(a) + f64::from(second) * price(b);
                clusters.push((cost, Cluster { design, workers: [first, second] }));
            }
        }
    }
    clusters.sort_by(|a, b| a.0.total_cmp(&b.0));
    let meets = |cluster: &Cluster| planner.measure(cluster).unwrap().attainment >= 0.9;
    let (cheapest, cluster) = clusters.iter().find(|(_, c)| meets(c)).expect("one that meets them");
    assert!(
        (best.price_per_hour - cheapest).abs() < 1e-9,
        "the plan is {best} for {}, brute force finds {cluster:?} for {cheapest}",
        best.price_per_hour
    );
    assert!(best.attainment >= 0.9, "{best:?}");
}

#[test]
fn the_same_seed_gives_the_same_plan_in_whatever_order_jobs_run() {
    let request = request(&["llama-3-8b-h100-80gb"], 20.0);
    let backwards = |planner: &Planner, jobs: &[baton_sim::plan::Job]| {
        let mut done: Vec<_> = jobs.iter().rev().map(|job| planner.run(job)).collect();
        done.reverse();
        done
    };
    let planner = Planner::new(request.clone()).unwrap();
    assert_eq!(planner.plan(&backwards).unwrap().json(), plan(&request).unwrap().json());
}

/// DistServe's chat on its own coefficients: phases apart, for prompts in pieces beside decoding
/// are late.
#[test]
fn distserves_chat_is_served_by_phases_apart() {
    let mut request = request(&["opt-13b-a100"], 10.0);
    request.workload = WorkloadConfig::default();
    request.tpot_ms = 100.0;
    let plan = plan(&request).unwrap();
    let best = plan.best().expect("a configuration");
    assert!(best.is_disaggregated(), "{best}");
    assert!(best.pools[0].workers >= best.pools[1].workers, "prefill is the bottleneck: {best}");
    assert!(best.capacity >= 10.0 && best.attainment >= 0.9, "{best:?}");
    assert!(best.ttft_p90_ms.unwrap() <= 250.0, "{best:?}");
    assert!(plan.svg().unwrap().starts_with("<svg"));
}

#[test]
fn targets_nothing_meets_are_answered_with_the_nearest() {
    let mut request = request(&["llama-3-8b-a100-80gb"], 1.0);
    request.tpot_ms = 1.0;
    let error = plan(&request).unwrap_err();
    let PlanError::Infeasible { nearest_ttft_ms, nearest_tpot_ms, .. } = error else {
        panic!("{error}");
    };
    let steps = request.profiles[0].parallelism[0];
    let decode_ms = (steps.decode_us + steps.decode_sequence_us) / 1e3;
    assert!((decode_ms..decode_ms * 1.1).contains(&nearest_tpot_ms), "{nearest_tpot_ms}");
    // What it says can be met is met.
    request.ttft_ms = nearest_ttft_ms * 1.05;
    request.tpot_ms = nearest_tpot_ms * 1.1;
    request.rate = 0.1;
    plan(&request).unwrap();
}

#[test]
fn what_makes_no_sense_is_refused() {
    let good = request(&["llama-3-8b-a100-80gb"], 1.0);
    refused(&PlanRequest { profiles: vec![], ..good.clone() }, &["no profile"]);
    refused(&PlanRequest { rate: 0.0, ..good.clone() }, &["rate is 0"]);
    refused(&PlanRequest { rate: f64::NAN, ..good.clone() }, &["rate is NaN"]);
    refused(&PlanRequest { ttft_ms: -1.0, ..good.clone() }, &["TTFT is -1"]);
    refused(&PlanRequest { attainment: 2.0, ..good.clone() }, &["attainment is 2"]);
    let mut broken = good.clone();
    broken.profiles[0].device.price_per_hour = 0.0;
    refused(&broken, &["profile 1 (A100-80GB-SXM)", "price_per_hour is 0"]);
    let mut mixed = good.clone();
    mixed.profiles.push(profile("opt-13b-a100"));
    refused(&mixed, &["1 (Llama-3-8B)", "2 (OPT-13B)", "different models"]);
    let mut long = good.clone();
    long.workload.prompt = Lengths::Fixed { tokens: 9000 };
    refused(&long, &["none of the requests", "8192 tokens"]);
    refused(&PlanRequest { rate: 1e5, ..good }, &["100000 requests/s", "at most 512"]);
}
