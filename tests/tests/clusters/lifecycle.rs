//! How a cluster begins and ends.

use std::{
    collections::BTreeMap,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use baton_tests::{Cluster, Engine, Options, baton, cpu_time, footprint, model, wake_ups};

const PATIENCE: Duration = Duration::from_secs(15);

fn once(args: &[&str]) -> String {
    let output = Command::new(baton())
        .args(["up", "--once", "--port=0", "--control-port=0", "--kv-size=256MiB"])
        .args(args)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}\n{errors}");
    said
}

#[test]
fn up_once_answers_shows_who_did_what_and_leaves_with_zero() {
    let said = once(&["--model", model().to_str().unwrap()]);
    for part in [
        "1 router, 1 prefill node, 2 decode nodes",
        "prefill-1",
        "decode-",
        "TTFT",
        "TPOT",
        "first decode step",
        "pages",
        "router",
        "queue",
        "transfer",
    ] {
        assert!(said.contains(part), "{part:?} is not in\n{said}");
    }
}

#[test]
fn up_once_works_with_the_simulated_engine_and_other_counts() {
    let said = once(&["--engine=sim", "--prefill=2", "--decode=1"]);
    assert!(said.contains("1 router, 2 prefill nodes, 1 decode node;"), "{said}");
    assert!(said.contains("pages"), "{said}");
}

#[test]
fn ctrl_c_ends_every_child_and_leaves_with_zero() {
    check_end(|cluster| {
        cluster.parent().unwrap().interrupt().unwrap();
        assert_eq!(cluster.wait().unwrap(), Some(0));
    });
}

#[test]
fn a_termination_signal_ends_every_child_and_leaves_with_zero() {
    check_end(|cluster| {
        cluster.parent().unwrap().terminate().unwrap();
        assert_eq!(cluster.wait().unwrap(), Some(0));
    });
}

#[test]
fn killing_the_parent_ends_every_child() {
    check_end(|cluster| {
        cluster.parent().unwrap().kill().unwrap();
        assert_eq!(cluster.wait().unwrap(), None);
    });
}

fn check_end(end: impl FnOnce(&mut Cluster)) {
    let mut cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    end(&mut cluster);
    for child in cluster.children() {
        assert!(child.wait_end(PATIENCE), "child {} is still alive", child.id());
    }
}

#[test]
fn an_idle_cluster_uses_no_cpu() {
    let cluster = Cluster::start(&Options::new(Engine::Llama)).unwrap();
    let mut ids: Vec<u32> = cluster.children().iter().map(|child| child.id()).collect();
    ids.push(cluster.parent().unwrap().id());
    let used = || ids.iter().filter_map(|&id| cpu_time(id)).sum::<Duration>();
    let woken = || ids.iter().flat_map(|&id| wake_ups(id)).collect::<BTreeMap<u32, u64>>();
    // Starting leaves each process its vocabulary to read, in the background.
    let (begin, second) = (Instant::now(), Duration::from_secs(1));
    let share = |window: Duration| {
        let before = used();
        std::thread::sleep(window);
        (used() - before).as_secs_f64() / window.as_secs_f64()
    };
    while share(second) > 0.25 {
        assert!(begin.elapsed() < PATIENCE, "the processes never came to rest");
    }
    // What a wake-up costs is the machine's affair: this process sleeps and wakes as often meanwhile.
    let own = || cpu_time(std::process::id()).unwrap();
    let (before, began, own_before, used_before) = (woken(), Instant::now(), own(), used());
    for _ in 0..160 {
        std::thread::sleep(Duration::from_millis(25));
    }
    let window = began.elapsed().as_secs_f64();
    let share = (used() - used_before).as_secs_f64() / window;
    let own = (own() - own_before).as_secs_f64() / window;
    let woken: u64 = woken()
        .iter()
        .map(|(thread, &count)| count.saturating_sub(before.get(thread).copied().unwrap_or(count)))
        .sum();
    // Each node speaks four times a second, and is heard.
    assert!(woken < 400, "five idle processes were woken {woken} times in four seconds");
    assert!(
        share < (4.0 * own).max(0.02),
        "five idle processes used {:.1} % of a core, and one that only wakes as often {:.1} %",
        share * 100.0,
        own * 100.0
    );
}

/// Its weights, and little else: no copy of its vocabulary for each router it has joined, and nothing that reading the model
/// took. What it had touched of its pool is in it, too.
#[test]
fn a_node_takes_at_most_a_third_more_than_its_model() {
    let cluster = Cluster::start(&Options::new(Engine::Llama)).unwrap();
    let file = std::fs::metadata(model()).unwrap().len();
    let nodes = cluster.nodes().unwrap();
    assert!(!nodes.is_empty());
    for name in nodes.keys() {
        let own = 1024 * footprint(cluster.child(name).unwrap().id()).unwrap().memory;
        assert!(10 * own <= 13 * file, "{name} has {own} bytes of its own, its model {file}");
    }
}
