//! What is offered is what was asked for.

use std::collections::BTreeMap;

use crate::{
    folder, load,
    server::{Reply, Server, words},
};

fn echo() -> Server {
    Server::start(|_, asked| Reply::Words(words(asked)))
}

#[test]
fn prompts_have_exactly_as_many_tokens_as_asked_for() {
    let server = echo();
    let args = ["--rate", "50", "-n", "60", "--input", "uniform:min=20,max=300", "--output", "2"];
    let said = load("exact", &[&["-t", &server.url()][..], &args].concat());
    let target = &said.report().targets[0];
    assert_eq!(
        (target.completed, target.lengths.prompts, target.lengths.exact),
        (60, 60, 60),
        "{}",
        said.out
    );
    // No two of them begin alike, but for the word that all begin with.
    let asked = server.asked.lock().unwrap();
    let mut begins: BTreeMap<Vec<&str>, u32> = BTreeMap::new();
    for asked in asked.iter().skip(2) {
        *begins.entry(asked.content().split(' ').skip(1).take(4).collect()).or_default() += 1;
    }
    assert_eq!(begins.len(), 60);
}

#[test]
fn targets_side_by_side_get_the_same_schedule() {
    let (one, other) = (echo(), echo());
    let (a, b) = (format!("a={}", one.url()), format!("b={}", other.url()));
    let args = [
        "--rate",
        "40",
        "-n",
        "30",
        "--input",
        "uniform:min=20,max=99",
        "--output",
        "uniform:min=1,max=9",
    ];
    let file = folder("beside").join("requests.csv");
    let csv = ["--csv", file.to_str().unwrap()];
    let said = load("beside", &[&["-t", &a, "-t", &b][..], &args, &csv].concat());
    assert_eq!(
        said.report().targets.iter().map(|target| target.completed).collect::<Vec<_>>(),
        [30, 30]
    );
    let text = std::fs::read_to_string(&file).unwrap();
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next().unwrap().split(',').collect();
    let column = |name| names.iter().position(|other| *other == name).unwrap();
    let wanted = ["number", "due_ms", "prompt_tokens", "output_tokens"].map(column);
    let mut rows: BTreeMap<&str, Vec<Vec<&str>>> = BTreeMap::new();
    for line in lines {
        let cells: Vec<&str> = line.split(',').collect();
        rows.entry(cells[0]).or_default().push(wanted.map(|index| cells[index]).to_vec());
    }
    rows.values_mut().for_each(|rows| rows.sort());
    assert_eq!(rows["a"].len(), 30);
    assert_eq!(rows["a"], rows["b"]);
}

#[test]
fn sessions_take_their_history_along() {
    let server = echo();
    let args = [
        "--rate", "20", "-n", "5", "--turns", "3", "--think", "10ms", "--input", "40", "--output",
        "2",
    ];
    let said = load("turns", &[&["-t", &server.url()][..], &args].concat());
    assert_eq!(said.report().targets[0].completed, 15, "{}", said.out);
    let asked = server.asked.lock().unwrap();
    let last = asked.iter().filter(|asked| asked.body["messages"].as_array().unwrap().len() == 5);
    for asked in last.clone() {
        let messages = asked.body["messages"].as_array().unwrap();
        let roles: Vec<_> =
            messages.iter().map(|message| message["role"].as_str().unwrap()).collect();
        assert_eq!(roles, ["user", "assistant", "user", "assistant", "user"]);
        assert_eq!(messages[1]["content"], " w0 w1");
    }
    assert_eq!(last.count(), 5);
}

#[test]
fn recordings_are_played() {
    let server = echo();
    let burst = "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n\
                 5,ChatGPT,40,3,43,Conversation log\n5.4,ChatGPT,50,4,54,Conversation log\n";
    let mooncake = "{\"timestamp\":0,\"input_length\":600,\"output_length\":3,\"hash_ids\":[1,2]}\n\
                    {\"timestamp\":400,\"input_length\":700,\"output_length\":4,\"hash_ids\":[1,3]}\n";
    for (name, text, words) in [("b.csv", burst, [40, 50]), ("m.jsonl", mooncake, [600, 700])] {
        server.asked.lock().unwrap().clear();
        let file = folder("recordings").join(name);
        std::fs::write(&file, text).unwrap();
        let args = ["--trace", file.to_str().unwrap(), "--speed", "2"];
        let said = load("recordings", &[&["-t", &server.url()][..], &args].concat());
        let report = said.report();
        assert_eq!(
            (report.targets[0].completed, report.targets[0].output_tokens),
            (2, 7),
            "{}",
            said.err
        );
        assert!((report.workload.to_s - 0.2).abs() < 0.01, "{:?}", report.workload);
        let asked = server.asked.lock().unwrap();
        let counts: Vec<usize> =
            asked.iter().skip(2).map(|asked| asked.content().split(' ').count() + 3).collect();
        assert_eq!(counts, words);
        if name == "m.jsonl" {
            let begin = |asked: &crate::server::Asked| {
                asked.content().split(' ').take(500).collect::<Vec<_>>().join(" ")
            };
            assert_eq!(begin(&asked[2]), begin(&asked[3]), "they share a block");
        }
    }
}

#[test]
fn conversations_are_had() {
    let server = echo();
    let file = folder("sharegpt").join("talks.json");
    let text = r#"[{"id":"1","conversations":[{"from":"human","value":"Hello there"},{"from":"gpt","value":"Hi, how are you?"},
        {"from":"human","value":"Fine."},{"from":"gpt","value":"Good."}]}]"#;
    std::fs::write(&file, text).unwrap();
    let args = ["--rate", "50", "-n", "2", "--think", "1ms", "--sharegpt", file.to_str().unwrap()];
    let said = load("sharegpt", &[&["-t", &server.url()][..], &args].concat());
    assert_eq!(said.report().targets[0].completed, 4, "{}", said.err);
    let asked = server.asked.lock().unwrap();
    assert!(asked.iter().skip(2).all(|asked| asked.content() == "Hello there"));
}

#[test]
fn classes_and_objectives_are_told() {
    let server = echo();
    let args = [
        "--arrivals",
        "constant:rate=100",
        "-n",
        "80",
        "--output",
        "1",
        "--class",
        "chat=3",
        "--class",
        "batch=1",
    ];
    let slo = ["--slo", "chat:ttft=250ms,tpot=50ms", "--slo", "batch:e2e=20s"];
    let said = load("classes", &[&["-t", &server.url()][..], &args, &slo].concat());
    let report = said.report();
    let classes = &report.targets[0].classes;
    assert_eq!(classes.iter().map(|class| class.offered).sum::<u64>(), 80);
    assert!((50..=70).contains(&classes[0].offered), "{classes:?}");
    let asked = server.asked.lock().unwrap();
    let chat = asked
        .iter()
        .filter(|asked| asked.headers.contains("x-slo-class: chat"))
        .collect::<Vec<_>>();
    assert_eq!(chat.len() as u64, classes[0].offered);
    assert!(chat.iter().all(|asked| asked.headers.contains("x-slo-ttft-ms: 250")));
}
