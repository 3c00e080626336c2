use std::time::Duration;

use super::*;

fn workload(config: WorkloadConfig, max_context: u32) -> Workload {
    Workload::new(&config, SloConfig::default(), max_context, None, 3).unwrap()
}

fn gaps(arrivals: Arrivals) -> Vec<f64> {
    let config = WorkloadConfig { requests: 20_000, arrivals, ..WorkloadConfig::default() };
    let times: Vec<Time> = workload(config, 8192).map(|request| request.at).collect();
    times.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64()).collect()
}

fn mean_and_cv(values: &[f64]) -> (f64, f64) {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
    (mean, variance.sqrt() / mean)
}

#[test]
fn arrivals_have_their_rate_and_their_burstiness() {
    for (arrivals, cv) in [
        (Arrivals::Poisson { rate: 5.0 }, 1.0),
        (Arrivals::Gamma { rate: 5.0, cv: 3.0 }, 3.0),
        (Arrivals::Gamma { rate: 5.0, cv: 0.5 }, 0.5),
        (Arrivals::Constant { rate: 5.0 }, 0.0),
    ] {
        let (mean, spread) = mean_and_cv(&gaps(arrivals));
        assert!((mean - 0.2).abs() < 0.015, "{arrivals:?}: {mean}");
        assert!((spread - cv).abs() < 0.1 * cv.max(0.01), "{arrivals:?}: {spread}");
    }
}

#[test]
fn a_ramp_goes_from_one_rate_to_the_other() {
    let arrivals = Arrivals::Ramp { from: 10.0, to: 50.0, over_s: 100.0 };
    let config = WorkloadConfig { requests: 6000, arrivals, ..WorkloadConfig::default() };
    let times: Vec<f64> =
        workload(config, 8192).map(|request| request.at.as_nanos() as f64 / 1e9).collect();
    let between = |from: f64, to: f64| times.iter().filter(|t| (from..to).contains(*t)).count();
    for (from, to, expected) in [(0.0, 10.0, 120.0), (45.0, 55.0, 300.0), (100.0, 120.0, 1000.0)] {
        let count = between(from, to) as f64;
        assert!((count - expected).abs() < 4.0 * f64::sqrt(expected), "{from}–{to} s: {count}");
    }
}

#[test]
fn a_surge_comes_and_goes() {
    let arrivals = Arrivals::Surge { rate: 10.0, peak: 50.0, from_s: 60.0, to_s: 100.0 };
    let config = WorkloadConfig { requests: 4000, arrivals, ..WorkloadConfig::default() };
    let times: Vec<f64> =
        workload(config, 8192).map(|request| request.at.as_nanos() as f64 / 1e9).collect();
    for (from, to, expected) in [(0.0, 60.0, 600.0), (60.0, 100.0, 2000.0), (100.0, 150.0, 500.0)] {
        let count = times.iter().filter(|t| (from..to).contains(*t)).count() as f64;
        assert!((count - expected).abs() < 4.0 * f64::sqrt(expected), "{from}–{to} s: {count}");
    }
}

#[test]
fn lengths_have_their_mean_and_stay_in_their_bounds() {
    let prompt = Lengths::Lognormal { mean: 755.0, cv: 0.8, max: 4000 };
    let output = Lengths::Uniform { min: 3, max: 7 };
    let config = WorkloadConfig { requests: 20_000, prompt, output, ..WorkloadConfig::default() };
    let requests: Vec<Request> = workload(config, 8192).collect();
    let prompts: Vec<f64> = requests.iter().map(|r| f64::from(r.prompt.len())).collect();
    assert!((mean_and_cv(&prompts).0 - 755.0).abs() < 20.0);
    assert!(requests.iter().all(|r| r.prompt.len() <= 4000 && (3..=7).contains(&r.output_len)));
    assert!([3, 7].iter().all(|end| requests.iter().any(|r| r.output_len == *end)));
}

#[test]
fn requests_over_the_context_follow_the_stated_rule() {
    let of = |over_context| {
        let config = WorkloadConfig {
            requests: 10,
            prompt: Lengths::Empirical { tokens: vec![50, 150] },
            output: Lengths::Fixed { tokens: 20 },
            over_context,
            ..WorkloadConfig::default()
        };
        let mut workload = workload(config, 100);
        let lengths: Vec<u32> = workload.by_ref().map(|request| request.prompt.len()).collect();
        (lengths, workload.over_context())
    };
    let (refused, over) = of(OverContext::Refuse);
    assert!(over > 0 && refused.len() == 10 && refused.contains(&150));
    let (truncated, _) = of(OverContext::Truncate);
    assert!(truncated.len() == 10 && truncated.contains(&80) && !truncated.contains(&150));
    let (skipped, over) = of(OverContext::Skip);
    assert!(skipped.len() as u64 + over == 10 && skipped.iter().all(|&tokens| tokens == 50));
}

#[test]
fn equal_beginnings_are_equal_tokens_and_others_are_not() {
    let prompt = |contents: &[u64]| {
        let segment = |&content| Segment { content, tokens: 512 };
        let mut tokens = Vec::new();
        Prompt::new(contents.iter().map(segment)).write_tokens(1000, &mut tokens);
        tokens
    };
    let (a, b) = (prompt(&[1, 2, 3]), prompt(&[1, 2, 4]));
    assert_eq!(a[..1024], b[..1024]);
    assert_ne!(a[1024..1040], b[1024..1040]);
    assert!(a.iter().all(|token| token.0 < 999), "the last id ends outputs");
}

#[test]
fn broken_traces_name_the_line() {
    let azure = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.68,374,44\n";
    let check = |format, text: &str, told: &[&str]| {
        let error = Trace::read(text.as_bytes(), format).unwrap_err().to_string();
        assert!(told.iter().all(|part| error.contains(part)), "{error:?} doesn't tell {told:?}");
    };
    for (line, told) in [
        ("2023-11-16 18:15:47.0,-3,44", ["line 3", "ContextTokens", "-3"]),
        ("2023-11-16 18:15:47.0,374,0", ["line 3", "GeneratedTokens", "\"0\""]),
        ("2023-11-16 18:15:47.0,374", ["line 3", "2 columns", "expected 3"]),
        ("2023-11-16 18:15:46.0,374,44", ["line 3", "680ms", "sort"]),
        ("yesterday,374,44", ["line 3", "TIMESTAMP", "yesterday"]),
        ("2023-11-16 18:15:47.0,many,44", ["line 3", "ContextTokens", "many"]),
    ] {
        check(TraceFormat::AzureCsv, &format!("{azure}{line}\n"), &told);
    }
    check(TraceFormat::AzureCsv, "a,b,c\n", &["line 1", "the header", "a,b,c"]);
    check(TraceFormat::AzureCsv, "", &["no requests"]);

    let good = r#"{"timestamp":5,"input_length":600,"output_length":1,"hash_ids":[1,2]}"#;
    for (line, told) in [
        (r#"{"timestamp":4,"input_length":1,"output_length":1,"hash_ids":[1]}"#, ["line 2", "1ms"]),
        (r#"{"timestamp":9,"input_length":-1,"output_length":1,"hash_ids":[]}"#, ["line 2", "-1"]),
        (
            r#"{"timestamp":9,"input_length":600,"output_length":1,"hash_ids":[1]}"#,
            ["line 2", "1 entries"],
        ),
        (r#"{"timestamp":-9,"input_length":6,"output_length":1,"hash_ids":[1]}"#, ["line 2", "-9"]),
        (r#"{"timestamp":9,"input_length":6"#, ["line 2", "not a request"]),
        (r#"{"timestamp":9,"output_length":1,"hash_ids":[1]}"#, ["line 2", "input_length"]),
    ] {
        check(TraceFormat::MooncakeJsonl, &format!("{good}\n{line}\n"), &told);
    }
    let trace = Trace::read(good.as_bytes(), TraceFormat::MooncakeJsonl).unwrap();
    assert_eq!((trace.requests[0].after, trace.requests[0].prompt.len()), (Duration::ZERO, 600));
}
