//! Reports to draw: one with everything there can be, and one of a run in which nothing was answered.

use baton_load::report::Report;
use serde_json::{Value, json};

/// Milliseconds around `middle`, with a tail; the same whenever it is run.
struct Times {
    state: u64,
    middle: f64,
    spread: f64,
    /// By how much one in thirty takes longer.
    tail: f64,
}

impl Times {
    fn next(&mut self) -> f64 {
        // Twelve uniform numbers are as good as a normal one.
        let normal = (0..12).map(|_| self.unit()).sum::<f64>() - 6.0;
        let tail = if self.unit() > 0.97 { self.tail } else { 1.0 };
        self.middle * (self.spread * normal).exp() * tail
    }

    fn unit(&mut self) -> f64 {
        self.state = self
            .state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.state >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A latency's distribution, with intervals and what is drawn.
fn latency(seed: u64, count: u64, middle: f64, spread: f64) -> Value {
    let mut times = Times { state: seed, middle, spread, tail: 2.5 };
    let mut all: Vec<f64> = (0..count).map(|_| times.next()).collect();
    all.sort_by(f64::total_cmp);
    let mut found = distribution(&all);
    let quantiles = ["mean", "p50", "p90", "p95", "p99"];
    let interval = |name: &&str| {
        let value = found[*name].as_f64().expect("a number");
        let half = if *name == "p99" { 0.22 } else { 0.05 };
        ((*name).to_owned(), json!([value * (1.0 - half), value * (1.0 + 1.4 * half)]))
    };
    let intervals: serde_json::Map<String, Value> = quantiles.iter().map(interval).collect();
    found["intervals"] = intervals.into();
    found["buckets"] = all.iter().map(|ms| json!({ "ms": ms, "count": 1 })).collect();
    found
}

fn distribution(sorted: &[f64]) -> Value {
    let at = |share: f64| sorted[((sorted.len() as f64 * share) as usize).min(sorted.len() - 1)];
    json!({
        "count": sorted.len(),
        "mean": sorted.iter().sum::<f64>() / sorted.len() as f64,
        "p50": at(0.5), "p90": at(0.9), "p95": at(0.95), "p99": at(0.99), "max": at(1.0),
    })
}

fn part(name: &str, mean: f64, p99: f64) -> Value {
    json!({
        "name": name, "count": 1180, "mean": mean, "p50": 0.8 * mean, "p90": 0.6 * p99, "p95": 0.8 * p99,
        "p99": p99, "max": 1.6 * p99,
    })
}

/// Two minutes, of which some do not count, with an outage.
fn timeline(seed: u64, slowness: f64) -> Value {
    let mut times = Times { state: seed, middle: 1.0, spread: 0.12, tail: 1.0 };
    let mut arrivals = Times { state: 5, middle: 11.5, spread: 0.2, tail: 1.0 };
    let slice = |at: u64| {
        let offered = arrivals.next().round().clamp(1.0, 19.0);
        let is_down = (45..49).contains(&at);
        let is_slow = (49..58).contains(&at);
        let met = if is_down { 0.0 } else { (offered * if is_slow { 0.4 } else { 0.95 }).round() };
        let factor = slowness * times.next() * if is_slow { 6.0 } else { 1.0 };
        let latency = |ms: f64| (!is_down).then_some(ms * factor);
        json!({
            "at_s": at, "width_s": 1.0, "offered": offered, "met": met, "completed": met, "refused": 0,
            "failed": if is_down { offered } else { 0.0 },
            "ttft_p50_ms": latency(92.0), "ttft_p99_ms": latency(260.0),
            "tpot_p50_ms": latency(11.0), "tpot_p99_ms": latency(17.5),
            "tokens_per_s": if is_down { 0.0 } else { 1400.0 * times.next() / slowness },
            "in_flight": 40.0 * factor, "counts": (10..112).contains(&at),
        })
    };
    (0..120).map(slice).map(whole).collect()
}

/// Counts have no fraction.
fn whole(mut slice: Value) -> Value {
    for name in ["offered", "met", "completed", "failed", "in_flight"] {
        slice[name] = json!(slice[name].as_f64().expect("a number").round() as u64);
    }
    slice
}

fn slowest(prefix: &str, slowness: f64) -> Value {
    let slow = |place: u64| {
        let ttft = slowness * (1180.0 - 71.0 * place as f64);
        json!({
            "request_id": format!("{prefix}{:032x}", 0x9e37_79b9_7f4a_7c15_u128.wrapping_mul(u128::from(place) + 77)),
            "number": 31 * place, "turn": place % 3, "due_s": 49.2 + 0.41 * place as f64,
            "ttft_ms": ttft, "tpot_ms": 11.4, "e2e_ms": ttft + 1450.0,
            "prompt_tokens": 512 + 13 * place, "output_tokens": 128,
            "parts": [
                ["sent late", 0.2], ["network", 2.4], ["router queue", 0.55 * ttft], ["prefill queue", 0.2 * ttft],
                ["prefill", 0.2 * ttft], ["between", 0.05 * ttft - 2.6],
            ],
        })
    };
    (0..12).map(slow).collect()
}

fn class(name: &str, seed: u64, offered: u64, attainment: f64, middle: f64) -> Value {
    let bare = |mut found: Value| {
        found["buckets"] = json!([]);
        found
    };
    json!({
        "name": name, "offered": offered, "completed": offered - 9, "attainment": attainment,
        "goodput": attainment * offered as f64 / 102.0,
        "latencies": {
            "ttft": bare(latency(seed, 300, middle, 0.4)), "tpot": bare(latency(seed + 1, 300, 11.0, 0.2)),
            "itl": null, "e2e": null, "longest_gap": null,
        },
    })
}

fn target(name: &str, protocol: &str, seed: u64, slowness: f64) -> Value {
    let without = |mut found: Value, unknown: &[&str]| {
        found
            .as_object_mut()
            .expect("an object")
            .retain(|name, _| !unknown.contains(&name.as_str()));
        found
    };
    let itl = without(latency(seed + 2, 5000, 10.9 * slowness, 0.3), &["intervals"]);
    let longest_gap = latency(seed + 4, 1136, 31.0 * slowness, 0.4);
    let longest_gap = without(longest_gap, &["intervals", "buckets"]);
    json!({
        "name": name, "protocol": protocol, "model": "SmolLM2-135M-Instruct.Q4_1",
        "offered": 1162, "completed": 1136,
        "refused": { "RESOURCE_EXHAUSTED OBJECTIVE_OUT_OF_REACH": 9 },
        "failed": { "UNAVAILABLE": 12, "the stream ended early": 3 },
        "examples": {
            "UNAVAILABLE": "tcp connect error: connection refused (os error 111)",
            "the stream ended early": "after 41 of 128 tokens: h2 protocol error: stream was reset",
        },
        "not_sent": 2, "resumed": 17, "outside": 198, "offered_rate": 11.392,
        "attainment": { "value": 0.934 - 0.03 * slowness, "interval": [0.921 - 0.06 * slowness, 0.951 - 0.015 * slowness] },
        "ttft_attainment": 0.921, "tpot_attainment": 0.958, "e2e_attainment": 0.9776,
        "goodput": { "value": 10.5, "interval": [9.9, 10.8] },
        "prompt_tokens": 594_821, "cached_tokens": 208_187, "output_tokens": 145_408,
        "output_tokens_per_s": 1425.6 / slowness,
        "latencies": {
            "ttft": latency(seed, 1136, 96.0 * slowness, 0.42), "tpot": latency(seed + 1, 1136, 11.2 * slowness, 0.16),
            "itl": itl, "e2e": latency(seed + 3, 1136, 1510.0 * slowness, 0.2),
            "longest_gap": longest_gap,
        },
        "classes": [
            class("chat", seed + 5, 902, 0.947, 88.0 * slowness), class("summarize", seed + 7, 260, 0.791, 260.0 * slowness),
        ],
        "parts": {
            "ttft": [
                part("sent late", 0.21, 1.3), part("network", 2.6, 7.4), part("router queue", 14.2 * slowness, 118.9),
                part("prefill queue", 22.9 * slowness, 160.0), part("prefill", 61.5 * slowness, 139.0), part("between", 4.8, 12.2),
            ],
            "second_token": [
                part("exposed transfer", 0.9 * slowness, 6.4), part("decode admission", 0.4, 2.2),
                part("first decode step", 11.8 * slowness, 25.6),
            ],
        },
        "slowest": slowest(if protocol == "gRPC" { "req-" } else { "chatcmpl-" }, slowness),
        "timeline": timeline(seed + 9, slowness),
        "lengths": { "prompts": 1136, "exact": 1131, "worst": 2, "short": 4 },
    })
}

fn rate(rate: f64, attainment: f64, runs: &[f64]) -> Value {
    let half = if runs.len() > 1 { 0.03 } else { 0.0 };
    let interval =
        (runs.len() > 1).then(|| json!([attainment - half, f64::min(attainment + half, 1.0)]));
    json!({
        "rate": rate, "attainments": runs, "attainment": { "value": attainment, "interval": interval },
        "goodput": rate * attainment, "ttft_p50_ms": 60.0 + 6.0 * rate, "ttft_p99_ms": 150.0 + 2.1 * rate * rate,
        "tpot_p50_ms": 10.0 + 0.1 * rate, "tpot_p99_ms": 14.0 + 0.5 * rate, "output_tokens_per_s": 125.0 * rate,
    })
}

fn capacity(target: &str, factor: f64) -> Value {
    let (low, high) = (13.0 * factor, 13.6 * factor);
    json!({
        "target": target, "wanted": 0.9, "low": low, "high": high,
        "statement": format!(
            "90 % of requests meet their objectives up to between {low:.3} requests/s (92.1 ± 1.4 % in 3 runs) and \
             {high:.3} (86.9 ± 1.8 % in 4 runs), with 95 % confidence at both ends"
        ),
        "curve": [
            rate(2.0 * factor, 0.998, &[0.998]), rate(4.0 * factor, 0.991, &[0.989, 0.993]),
            rate(8.0 * factor, 0.982, &[0.979, 0.985]), rate(12.0 * factor, 0.944, &[0.93, 0.958]),
            rate(low, 0.921, &[0.911, 0.921, 0.931]), rate(high, 0.869, &[0.85, 0.861, 0.88, 0.885]),
            rate(14.0 * factor, 0.83, &[0.81, 0.85]), rate(16.0 * factor, 0.46, &[0.43, 0.49]),
        ],
    })
}

fn verdict(lost: u64, wrong: u64, examples: &[&str]) -> Value {
    json!({
        "compared": 1136, "exact": 1136 - lost - wrong, "lost": lost, "doubled": 0, "wrong": wrong, "examples": examples,
    })
}

fn report(value: Value) -> Report {
    serde_json::from_value(value).expect("a report")
}

fn workload(classes: &Value) -> Value {
    json!({
        "arrivals": "poisson:rate=11.5", "input": "lognormal:median=480,p95=1400", "output": "128",
        "shared": "count=8,tokens=180", "turns": "1..=3, 2s apart", "source": null, "api": "chat", "seed": 7,
        "from_s": 10.0, "to_s": 112.0, "classes": classes,
    })
}

/// Everything there can be.
pub(crate) fn filled() -> Report {
    let late = distribution(&[0.05, 0.1, 0.11, 0.2, 0.26, 0.4, 0.9, 1.3, 5.4, 6.8]);
    report(json!({
        "format": "baton-load/1",
        "began_at": 1_795_386_254,
        "command": [
            "baton", "load", "-t", "candidate=grpc://127.0.0.1:8000", "-t", "current=http://127.0.0.1:8100",
            "--arrivals", "poisson:rate=11.5", "--slo", "chat:ttft=300ms,tpot=20ms", "--slo", "summarize:ttft=2s",
            "--chaos", "45s kill -9 $(cat decode-1.pid)", "--html", "report.html",
        ],
        "workload": workload(&json!([
            { "name": "chat", "share": 0.776, "ttft_ms": 300.0, "tpot_ms": 20.0, "e2e_ms": null },
            { "name": "summarize", "share": 0.224, "ttft_ms": 2000.0, "tpot_ms": 20.0, "e2e_ms": 8000.0 },
        ])),
        "arrivals": {
            "arrivals": 1360, "span_s": 119.6,
            "rate": { "seen": 13.9, "band": { "expected": 11.5, "low": 10.5, "high": 12.55 } },
            "window": 10.0, "windows": 136,
            "dispersion": { "seen": 1.04, "band": { "expected": 1.0, "low": 0.64, "high": 1.46 } },
            "gaps": { "fit": { "distance": 0.0211, "p": 0.571 } },
        },
        "client": {
            "threads": 2, "cpu": 0.41, "late_ms": late, "lag_ms": late, "most_in_flight": 312, "unfinished": 6,
            "saturated": "1 % of requests were sent 6.8 ms late or more: the client may be the bottleneck; give it \
                          more --threads and cores, or offer less",
        },
        "targets": [target("candidate", "gRPC", 3, 1.0), target("current", "HTTP", 11, 1.7)],
        "capacity": [capacity("candidate", 1.0), capacity("current", 0.62)],
        "chaos": {
            "faults": [
                { "at_s": 45.0, "command": "kill -9 $(cat decode-1.pid)", "status": 0, "said": "" },
                { "at_s": 46.5, "command": "tc qdisc add dev lo root netem delay 20ms", "status": 2,
                  "said": "RTNETLINK answers: Operation not permitted" },
                { "at_s": 80.0, "command": "systemctl restart etcd", "status": null, "said": "No such file or directory" },
            ],
            "tokens": {
                "candidate": verdict(0, 0, &[]),
                "current": verdict(12, 1, &["request 521.0: 7 tokens lost at 31", "request 530.1: differs at 12"]),
            },
        },
        "checks": [
            { "wanted": "candidate:attainment>=90%", "found": "90.40 %", "passed": true },
            { "wanted": "ttft.p99<500ms", "found": "current: 612.00 ms", "passed": false },
            { "wanted": "token_faults==0", "found": "current: 13", "passed": false },
        ],
        "interrupted": true,
    }))
}

/// Nobody answered.
pub(crate) fn empty() -> Report {
    report(json!({
        "format": "baton-load/1", "began_at": 1_795_386_254, "command": [],
        "workload": workload(&json!([{ "name": null, "share": 1.0, "ttft_ms": 500.0, "tpot_ms": null, "e2e_ms": null }])),
        "arrivals": null,
        "client": {
            "threads": 1, "cpu": 0.0, "late_ms": null, "lag_ms": null, "most_in_flight": 0, "unfinished": 0, "saturated": null,
        },
        "targets": [{
            "name": "server", "protocol": "HTTP", "model": "", "offered": 3, "completed": 0, "refused": {},
            "failed": { "connection refused": 3 }, "not_sent": 0, "resumed": 0, "outside": 0, "offered_rate": 0.3,
            "attainment": { "value": 0.0, "interval": null }, "ttft_attainment": 0.0, "tpot_attainment": 0.0,
            "e2e_attainment": 0.0, "goodput": { "value": 0.0, "interval": null }, "prompt_tokens": 0,
            "cached_tokens": 0, "output_tokens": 0, "output_tokens_per_s": 0.0, "latencies": {}, "classes": [],
            "parts": null, "slowest": [], "timeline": [],
            "lengths": { "prompts": 0, "exact": 0, "worst": 0, "short": 0 },
        }],
        "chaos": null, "interrupted": false,
    }))
}
