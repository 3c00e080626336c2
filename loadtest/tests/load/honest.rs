//! Latencies count from when requests were due, whatever holds them up.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use crate::{
    load,
    server::{Reply, Server, words},
};

/// A server that stands still for a second hurts all that were due meanwhile, not the one that it had.
#[test]
fn a_stall_hurts_all_who_were_due() {
    let begun: Arc<Mutex<Option<Instant>>> = Arc::default();
    let server = Server::start(move |number, asked| {
        let since = begun.lock().unwrap().get_or_insert_with(Instant::now).elapsed();
        // From 1 s to 2 s after the first of the run.
        let from = Duration::from_secs(1);
        match number {
            0 | 1 => {
                *begun.lock().unwrap() = None;
                Reply::Words(words(asked))
            }
            _ if since >= from && since < 2 * from => Reply::Late(2 * from - since, words(asked)),
            _ => Reply::Words(words(asked)),
        }
    });
    let args = [
        "--arrivals",
        "constant:rate=50",
        "--duration",
        "3s",
        "--output",
        "2",
        "--slo",
        "ttft=200ms",
    ];
    let said = load("stall", &[&["-t", &server.url()][..], &args].concat());
    let target = &said.report().targets[0];
    assert_eq!((target.offered, target.completed), (149, 149));
    // 40 of 149 were due early enough in that second to wait for more than 200 ms.
    let attained = target.attainment.value;
    assert!((0.65..=0.80).contains(&attained), "{attained}: {}", said.out);
    let ttft = target.latencies.ttft.as_ref().unwrap().of;
    assert!(ttft.max >= 900.0 && ttft.p50 < 200.0, "{ttft:?}");
}

/// Everybody waits for the one before: one at a time, 50 ms each, 40 a second offered.
#[test]
fn a_queue_is_seen_by_an_open_loop_and_hidden_by_a_closed_one() {
    let serial = || {
        let turn = Arc::new(Mutex::new(()));
        Server::start(move |_, asked| {
            let _turn = turn.lock().unwrap();
            std::thread::sleep(Duration::from_millis(50));
            Reply::Words(words(asked))
        })
    };
    let (one, other) = (serial(), serial());
    let open = load(
        "open",
        &["-t", &one.url(), "--arrivals", "constant:rate=40", "--duration", "2s", "--output", "1"],
    );
    let closed =
        load("closed", &["-t", &other.url(), "--users", "1", "--duration", "2s", "--output", "1"]);
    let p50 = |said: &crate::Said| said.report().targets[0].latencies.ttft.as_ref().unwrap().of.p50;
    let (open, closed) = (p50(&open), p50(&closed));
    // After 2 s of 40 offered and 20 answered a second the queue is 2 s long: half of that in the median.
    assert!(open > 5.0 * closed && closed >= 50.0, "open {open} ms, closed {closed} ms");
}

#[test]
fn memory_does_not_grow_with_the_run() {
    let server = Server::start(|_, asked| Reply::Words(words(asked)));
    let peak = |test: &str, requests: &str| {
        let rate = ["--arrivals", "constant:rate=4000", "--input", "16", "--output", "2"];
        let said = load(test, &[&["-t", &server.url(), "-n", requests][..], &rate].concat());
        assert_eq!(said.report().targets[0].completed.to_string(), requests, "{}", said.out);
        said.report().client.peak_memory_bytes.expect("the system tells")
    };
    let (few, many) = (peak("few", "3000"), peak("many", "23000"));
    // 400 bytes of each further request would be too much: one whose outcome was kept would have more.
    assert!(many < few + 20_000 * 400, "3,000 requests: {few} bytes, 23,000: {many} bytes");
}

#[test]
fn a_curve_says_where_the_load_test_was_the_limit() {
    let server = Server::start(|_, asked| Reply::Late(Duration::from_millis(200), words(asked)));
    let args = ["--rates", "2,40", "--max-in-flight", "2", "--duration", "1s", "--output", "1"];
    let said = load("limited", &[&["-t", &server.url()][..], &args].concat());
    let curve = &said.report().capacity[0].curve;
    let limited: Vec<bool> = curve.iter().map(|at| at.client_limited).collect();
    assert_eq!(limited, [false, true], "{}", said.out);
    assert!(said.out.contains("may have been the bottleneck at 40.000 requests/s"), "{}", said.out);
}
