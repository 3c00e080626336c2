//! Whatever is wrong is said, with its exit status, and what could be measured is kept.

use std::{
    net::{Ipv4Addr, TcpListener},
    process::Stdio,
    time::Duration,
};

use crate::{
    command, folder, load, said,
    server::{Reply, Server, words},
};

const BRIEF: [&str; 6] = ["--arrivals", "constant:rate=20", "--duration", "1s", "--output", "4"];

fn with<'a>(args: &[&'a str]) -> Vec<&'a str> {
    BRIEF.iter().copied().chain(args.iter().copied()).collect()
}

#[test]
fn nobody_there() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    for scheme in ["http", "grpc"] {
        let target = format!("{scheme}://127.0.0.1:{port}");
        let said = load("nobody", &with(&["-t", &target]));
        assert_eq!(said.status, 3, "{}", said.err);
        assert!(said.err.contains(&target) && said.err.contains("can't be asked"), "{}", said.err);
    }
}

#[test]
fn tls_where_there_is_none_and_none_where_there_is() {
    let server = Server::start(|_, asked| Reply::Words(words(asked)));
    for scheme in ["https", "grpcs"] {
        let target = format!("{scheme}://{}", server.address);
        let said = load("tls", &with(&["-t", &target]));
        assert_eq!(said.status, 3, "{}", said.err);
        assert!(said.err.contains("can't be asked"), "{}", said.err);
    }
}

#[test]
fn a_wrong_token() {
    let server = Server::start(|_, _| Reply::Status(401, "invalid_api_key", "who are you?"));
    let said = load("token", &with(&["-t", &server.url(), "--token", "s3cret"]));
    assert_eq!(said.status, 3, "{}", said.err);
    assert!(said.err.contains("401") && said.err.contains("who are you?"), "{}", said.err);
    assert!(!said.err.contains("s3cret") && !said.out.contains("s3cret"));
}

#[test]
fn a_token_in_plain_text() {
    let said = load("plain", &with(&["-t", "http://10.255.255.1:9", "--token", "s3cret"]));
    assert_eq!(said.status, 3);
    assert!(said.err.contains("plain text"), "{}", said.err);
}

#[test]
fn no_room_for_anybody() {
    let server = Server::start(|_, _| Reply::Status(429, "queue_full", "come later"));
    let said = load("full", &with(&["-t", &server.url(), "--slo", "ttft=1s"]));
    assert_eq!(said.status, 4, "{}", said.err);
    let target = &said.report().targets[0];
    assert_eq!((target.offered, target.completed), (19, 0));
    assert_eq!(target.refused["429 queue_full"], 19);
    assert_eq!(target.attainment.value, 0.0);
    assert!(said.out.contains("come later"), "{}", said.out);
}

#[test]
fn a_server_that_stalls_in_the_middle() {
    // The first two are the load test's own.
    let server = Server::start(|number, asked| match number % 2 {
        1 if number > 1 => Reply::Stalls,
        _ => Reply::Words(words(asked)),
    });
    let said = load("stalls", &with(&["-t", &server.url(), "--timeout", "700ms"]));
    assert_eq!(said.status, 0, "{}", said.err);
    let target = &said.report().targets[0];
    assert_eq!((target.offered, target.completed), (19, 10));
    assert_eq!(target.failed["timeout"], 9);
}

#[test]
fn a_server_that_breaks_off() {
    let server = Server::start(|number, asked| match number {
        0 | 1 => Reply::Words(words(asked)),
        _ => Reply::CutsOff,
    });
    let said = load("cuts", &with(&["-t", &server.url()]));
    assert_eq!(said.status, 4, "{}", said.err);
    let target = &said.report().targets[0];
    assert_eq!(target.failed.values().sum::<u64>(), 19, "{:?}", target.failed);
}

#[test]
fn a_malformed_trace() {
    let file = folder("trace").join("trace.csv");
    let text = "TIMESTAMP,ContextTokens,GeneratedTokens\n2023-11-16 18:15:46.0,374,44\n2023-11-16 18:15:47.0,x,4\n";
    std::fs::write(&file, text).unwrap();
    let said = load("trace", &["-t", "http://127.0.0.1:9", "--trace", file.to_str().unwrap()]);
    assert_eq!(said.status, 2);
    for told in ["trace.csv", "line 3", "ContextTokens", "\"x\""] {
        assert!(said.err.contains(told), "{:?} doesn't tell {told}", said.err);
    }
}

#[test]
fn arguments_that_make_no_sense() {
    for (args, told) in [
        (&["--slo", "ttft=300"][..], "ttft=300"),
        (&["--slo", "chat:ttft=1s"], "\"chat\""),
        (&["--arrivals", "poison:rate=2"], "poison"),
        (&["--rate", "0"], "--rate"),
        (&["--assert", "ttft.p98<1s"], "p98"),
        (&["--input", "normal:mean=1"], "normal"),
        (&["-t", "ftp://x"], "ftp://x"),
        (&["--chaos", "kill"], "kill"),
        (&["--warmup", "40s"], "warm-up"),
        (&["--users", "3", "--rate", "2"], "--rate"),
        (&["--trace", "/nowhere/at/all"], "/nowhere/at/all"),
        (&["--baseline", "/nowhere/at/all"], "/nowhere/at/all"),
    ] {
        let said = load("arguments", args);
        assert_eq!(said.status, 2, "{args:?}: {}", said.err);
        assert!(said.err.contains(told), "{args:?} isn't told {told}: {}", said.err);
    }
}

#[test]
fn what_there_is_by_an_interrupt_is_kept() {
    let args = ["--arrivals", "constant:rate=50", "--duration", "10m", "--output", "2"];
    let said = interrupted("interrupt", &args, 30);
    let report = said.report();
    assert!(report.targets[0].completed >= 25, "{}", said.out);
}

/// Of a search that is what has been run to its end: the first rate, and perhaps the second.
#[test]
fn a_search_that_is_interrupted_tells_what_it_found() {
    let args = ["--arrivals", "constant:rate=20", "--duration", "1s", "--output", "2"];
    let said = interrupted("search", &[&args[..], &["--find-capacity"]].concat(), 30);
    let report = said.report();
    assert_eq!(report.capacity[0].curve[0].rate, 20.0, "{}", said.out);
    assert!(report.targets[0].completed >= 15, "{}", said.out);
}

/// A run that is told to end when its server has been asked so often.
fn interrupted(test: &str, args: &[&str], asked: usize) -> crate::Said {
    let server = Server::start(|_, asked| Reply::Words(words(asked)));
    let file = folder(test).join("report.json");
    let _ = std::fs::remove_file(&file);
    let child = command()
        .args(["-t", &server.url()])
        .args(args)
        .arg("--json")
        .arg(&file)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    while server.asked.lock().unwrap().len() < asked {
        std::thread::sleep(Duration::from_millis(10));
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let said = said(child.wait_with_output().unwrap(), &file);
    assert_eq!(said.status, 130, "{}", said.err);
    assert!(
        said.report().interrupted && said.out.contains("stopped before its end"),
        "{}",
        said.out
    );
    said
}
