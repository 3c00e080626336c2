//! Faults on a schedule, and what they did to the answers.

use std::path::PathBuf;

use crate::{
    folder, load,
    server::{Reply, Server, words},
};

/// A server whose answers are wrong in one way or another once a file is there.
fn fragile(file: PathBuf) -> Server {
    Server::start(move |number, asked| {
        let mut words = words(asked);
        if file.exists() {
            match number % 4 {
                0 => drop(words.remove(3)),
                1 => words.insert(3, words[2].clone()),
                2 => words[3] = " wrong".to_owned(),
                _ => {}
            }
        }
        Reply::Words(words)
    })
}

#[test]
fn answers_are_compared_with_those_without_faults() {
    let file = folder("faults").join("broken");
    let _ = std::fs::remove_file(&file);
    let server = fragile(file.clone());
    let fault = format!("500ms:touch {}", file.display());
    let args = [
        "--arrivals",
        "constant:rate=40",
        "--duration",
        "1500ms",
        "--output",
        "8",
        "--chaos",
        &fault,
    ];
    let said = load(
        "faults",
        &[&["-t", &server.url()][..], &args, &["--assert", "token_faults==0"]].concat(),
    );
    assert_eq!(said.status, 1, "{}{}", said.out, said.err);
    let chaos = said.report().chaos.as_ref().unwrap();
    assert_eq!(chaos.faults.len(), 1);
    assert_eq!((chaos.faults[0].status, chaos.faults[0].said.as_str()), (Some(0), ""));
    assert!(chaos.faults[0].at_s >= 0.5);
    let verdict = &chaos.tokens[&server.url()];
    assert_eq!(verdict.compared, 59);
    // A quarter each of some forty.
    for count in [verdict.lost, verdict.doubled, verdict.wrong] {
        assert!((8..=12).contains(&count), "{verdict:?}");
    }
    assert_eq!(verdict.exact + verdict.lost + verdict.doubled + verdict.wrong, 59);
}

#[test]
fn without_faults_nothing_is_off() {
    let server = Server::start(|_, asked| Reply::Words(words(asked)));
    let args = [
        "--rate",
        "40",
        "-n",
        "20",
        "--output",
        "8",
        "--chaos",
        "100ms:exit 7",
        "--reference",
        "after",
    ];
    let said = load(
        "faultless",
        &[&["-t", &server.url()][..], &args, &["--assert", "token_faults==0"]].concat(),
    );
    assert_eq!(said.status, 0, "{}{}", said.out, said.err);
    assert!(said.out.contains("exit status 7"), "{}", said.out);
    let verdict = &said.report().chaos.as_ref().unwrap().tokens[&server.url()];
    assert_eq!((verdict.compared, verdict.exact), (20, 20));
}
