use super::*;

fn workload(config: WorkloadConfig, max_context: u32) -> Workload {
    Workload::new(&config, SloConfig::default(), max_context, None, 3).unwrap()
}

#[test]
fn requests_come_as_the_configuration_says() {
    let arrivals = Arrivals::Gamma { rate: 5.0, cv: 2.0 };
    let (prompt, output) = (Lengths::Uniform { min: 3, max: 900 }, Lengths::Fixed { tokens: 7 });
    let config =
        WorkloadConfig { arrivals, prompt: prompt.clone(), output, ..WorkloadConfig::default() };
    let (mut gaps, mut lengths) = (draws(3, Purpose::Arrivals), draws(3, Purpose::Lengths));
    let mut now = Duration::ZERO;
    for request in workload(config, 8192) {
        now += arrivals.gap(now, &mut gaps);
        let drawn = (request.at, request.prompt.len(), request.output_len);
        assert_eq!(drawn, (Time::ZERO + now, prompt.draw(&mut lengths), 7));
    }
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
