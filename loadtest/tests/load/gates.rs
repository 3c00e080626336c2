//! The exit status, for those who run it unattended.

use std::time::Duration;

use crate::{
    folder, load,
    server::{Reply, Server, words},
};

const BRIEF: [&str; 6] = ["--arrivals", "constant:rate=40", "--duration", "2s", "--output", "3"];

fn server(late: Duration) -> Server {
    Server::start(move |_, asked| Reply::Late(late, words(asked)))
}

#[test]
fn what_must_hold() {
    let server = server(Duration::from_millis(50));
    let url = server.url();
    let check = |args: &[&str], status: i32, checks: &[bool]| {
        let said = load("assert", &[&["-t", &url][..], &BRIEF, args].concat());
        assert_eq!(said.status, status, "{args:?}: {}{}", said.out, said.err);
        let found: Vec<bool> = said.report().checks.iter().map(|check| check.passed).collect();
        assert_eq!(found, checks, "{}", said.out);
    };
    check(&["--assert", "errors==0", "--assert", "ttft.p50>=50ms"], 0, &[true, true]);
    check(&["--assert", "ttft.p50<50ms"], 1, &[false]);
    check(&["--slo", "ttft=10ms", "--assert", "attainment>=50%"], 1, &[false]);
    check(&["--slo", "ttft=10s", "--assert", "attainment>=99%"], 0, &[true]);
    check(&["--slo", "ttft.p99=1ms"], 1, &[false]);
    check(&["--assert", "capacity>=1"], 1, &[false]);
    check(&["--assert", "other:errors==0"], 1, &[false]);
}

#[test]
fn an_earlier_run_is_not_to_be_better() {
    let (fast, slow) = (server(Duration::from_millis(20)), server(Duration::from_millis(120)));
    let before = folder("before").join("report.json");
    let first = load("before", &[&["-t", &fast.url()][..], &BRIEF].concat());
    assert_eq!(first.status, 0, "{}", first.err);
    let baseline = ["--baseline", before.to_str().unwrap(), "--tolerance", "50"];
    let against = |server: &Server, more: &[&str]| {
        load("baseline", &[&["-t", &server.url()][..], &BRIEF, &baseline, more].concat())
    };
    let same = against(&fast, &[]);
    assert_eq!(same.status, 0, "{}", same.out);
    let worse = against(&slow, &[]);
    assert_eq!(worse.status, 1, "{}", worse.out);
    assert!(
        worse
            .report()
            .checks
            .iter()
            .any(|check| check.wanted.contains("ttft.p50") && !check.passed)
    );
    let other = against(&fast, &["--input", "32"]);
    assert_eq!(other.status, 2, "{}", other.out);
    assert!(other.err.contains("input lengths was 256, and is 32"), "{}", other.err);
}

/// The same rate of other requests is another workload; the same file elsewhere isn't.
#[test]
fn another_recording_is_no_baseline() {
    let server = server(Duration::from_millis(1));
    let (here, there) = (folder("recording"), folder("recording/there"));
    let rows = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.6805900,32,3\n2023-11-16 18:15:46.7805900,32,3\n";
    let paths = [here.join("one.csv"), there.join("one.csv"), here.join("other.csv")];
    paths.iter().for_each(|path| std::fs::write(path, rows).unwrap());
    let replay = |path: &std::path::Path, more: &[&str]| {
        let args = ["-t", &server.url(), "--trace", path.to_str().unwrap()];
        load("recording", &[&args[..], more].concat())
    };
    let before = here.join("before.json");
    assert_eq!(replay(&paths[0], &[]).status, 0);
    std::fs::rename(here.join("report.json"), &before).unwrap();
    let baseline = ["--baseline", before.to_str().unwrap(), "--tolerance", "1000"];
    let same = replay(&paths[1], &baseline);
    assert_eq!(same.status, 0, "{}{}", same.out, same.err);
    let other = replay(&paths[2], &baseline);
    assert_eq!(other.status, 2, "{}{}", other.out, other.err);
    assert!(other.err.contains("the recording was one.csv, and is other.csv"), "{}", other.err);
}

/// A server for one at a time, 20 ms each: some 35 to 50 a second are its limit, depending on what is in time.
#[test]
fn a_capacity_is_found() {
    let turn = std::sync::Mutex::new(());
    let server = Server::start(move |_, asked| {
        let _turn = turn.lock().unwrap();
        std::thread::sleep(Duration::from_millis(20));
        Reply::Words(words(asked))
    });
    let args = [
        "--rate",
        "10",
        "--duration",
        "3s",
        "--output",
        "1",
        "--input",
        "64",
        "--slo",
        "ttft=200ms",
    ];
    let search = ["--find-capacity", "--precision", "20", "--repeats", "2", "--timeout", "5s"];
    let said = load(
        "capacity",
        &[&["-t", &server.url()][..], &args, &search, &["--assert", "capacity>=20"]].concat(),
    );
    assert_eq!(said.status, 0, "{}{}", said.out, said.err);
    let found = &said.report().capacity[0];
    let (low, high) = (found.low.unwrap(), found.high.unwrap());
    assert!(low >= 20.0 && high <= 70.0, "{found:?}");
    assert!(found.curve.len() >= 3 && found.statement.contains("requests/s"));
}
