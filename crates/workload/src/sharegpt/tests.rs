use super::*;

fn said(text: &str) -> Vec<Vec<(String, String)>> {
    let read = Conversations::read(text.as_bytes()).unwrap();
    let turns = |it: Conversation| it.turns.into_iter().map(|turn| (turn.user, turn.assistant));
    read.conversations.into_iter().map(|it| turns(it).collect()).collect()
}

fn message(from: &str, value: &str) -> String {
    format!(r#"{{"from": "{from}", "value": "{value}"}}"#)
}

fn conversation(messages: &[(&str, &str)]) -> String {
    let messages: Vec<String> = messages.iter().map(|(from, value)| message(from, value)).collect();
    format!(r#"{{"id": "x1", "conversations": [{}]}}"#, messages.join(","))
}

#[test]
fn turns_are_questions_with_their_answers() {
    for (messages, turns) in [
        (&[("human", "a"), ("gpt", "b")][..], &[("a", "b")][..]),
        (&[("user", "a"), ("assistant", "b"), ("user", "c")], &[("a", "b")]),
        (&[("gpt", "z"), ("human", "a"), ("gpt", "b")], &[("a", "b")]),
        (&[("system", "s"), ("human", "a"), ("gpt", "b")], &[("a", "b")]),
        (&[("human", "a"), ("tool", "t"), ("gpt", "b")], &[("a", "b")]),
        (&[("human", "a"), ("gpt", "b"), ("human", "c"), ("gpt", "d")], &[("a", "b"), ("c", "d")]),
        (&[("human", "a"), ("human", "b"), ("gpt", "c"), ("gpt", "d")], &[("a\n\nb", "c\n\nd")]),
        (&[("human", " "), ("gpt", "b"), ("human", "c"), ("gpt", "d")], &[("c", "d")]),
    ] {
        let expected: Vec<Vec<(String, String)>> =
            vec![turns.iter().map(|(user, gpt)| ((*user).into(), (*gpt).into())).collect()];
        let one = conversation(messages);
        assert_eq!(said(&format!("[{one}]")), expected, "{messages:?}");
        assert_eq!(said(&one), expected, "{messages:?}");
    }
}

#[test]
fn an_array_and_lines_are_the_same() {
    let one = conversation(&[("human", "a"), ("gpt", "b")]);
    let half = conversation(&[("human", "a")]);
    let empty = r#"{"conversations": []}"#;
    let array = format!("\n [{one},\n{half},{empty},\n{one}]\n");
    let lines = format!("\n{one}\n{half}\n{empty}\n\n{one}\n");
    let [array, lines] = [array, lines].map(|text| Conversations::read(text.as_bytes()).unwrap());
    assert_eq!((array.conversations.len(), array.left_out), (2, 2));
    assert_eq!(array, lines);
    let keys = r#"{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}"#;
    assert_eq!(said(keys), said(&one));
}

#[test]
fn broken_ones_have_their_number_and_line() {
    let one = conversation(&[("human", "a"), ("gpt", "b")]);
    let half = conversation(&[("human", "a")]);
    for (text, told) in [
        (
            format!("[{one},\n{half},\n{{\"id\": 3}}]"),
            ["conversation 3", "`conversations`", "line 3"],
        ),
        (format!("{one}\n{{\"id\": 3}}\n"), ["conversation 2", "`conversations`", "line 2"]),
        (format!("[{one},\n7]"), ["conversation 2", "invalid type: integer `7`", "line 2"]),
        (format!("[{one},\n{one}"), ["conversation 3", "EOF", "line 2"]),
        (format!("[{one}]\nx"), ["conversation 2", "trailing characters", "line 2"]),
        (
            r#"[{"conversations": [{"from": "human"}]}]"#.to_owned(),
            ["conversation 1", "missing field `value`", "line 1"],
        ),
        (
            r#"[{"conversations": [{"from": "human", "value": 5}]}]"#.to_owned(),
            ["conversation 1", "expected a string", "line 1"],
        ),
        ("id,text\n".to_owned(), ["begins with", "id,text", "expected an array"]),
        (format!("[{half}]"), ["none", "1 conversations", "answer"]),
        (String::new(), ["none", "0 conversations", "answer"]),
    ] {
        let error = Conversations::read(text.as_bytes()).unwrap_err().to_string();
        assert!(told.iter().all(|part| error.contains(part)), "{error:?} doesn't tell {told:?}");
    }
}
