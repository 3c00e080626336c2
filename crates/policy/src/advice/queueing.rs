//! What is known of queues.

/// The chance that whoever comes must wait, where `servers` share one queue and `work` of them are busy
/// in the mean: Erlang's C.
pub(super) fn erlang_c(servers: u32, work: f64) -> f64 {
    let all = f64::from(servers);
    if work >= all {
        return 1.0;
    }
    let mut blocked = 1.0;
    for busy in 1..=servers {
        blocked = work * blocked / (f64::from(busy) + work * blocked);
    }
    blocked / (1.0 - work / all * (1.0 - blocked))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_server_keeps_its_share_waiting_and_many_share_the_load() {
        for (servers, work, expected) in
            [(1, 0.5, 0.5), (2, 1.0, 1.0 / 3.0), (10, 8.0, 0.409), (3, 3.0, 1.0), (5, 0.0, 0.0)]
        {
            let waits = erlang_c(servers, work);
            assert!((waits - expected).abs() < 1e-3, "{servers} {work}: {waits}");
        }
    }
}
