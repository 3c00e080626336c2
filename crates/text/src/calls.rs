use std::sync::Arc;

use crate::{chat::Tool, tools::Syntax};

/// Finds the calls of tools in an output, piece by piece.
///
/// Text is held back while it may be the beginning of a call; a call's name comes whole, its
/// arguments as they are written. Rebuilt by pushing the same text.
///
/// What begins as a call and then names no tool that was offered is text.
#[derive(Clone, Debug)]
pub struct CallSplitter {
    syntax: Syntax,
    /// Of the tools that were offered.
    heads: Arc<[Head]>,
    /// What is no call has a format of its own, which may hold what looks like one: calls are at
    /// the output's beginning or nowhere.
    has_format: bool,
    state: State,
    /// Not understood yet.
    pending: String,
    calls: u32,
    /// Nothing but white space was shown.
    is_blank: bool,
}

/// What is between a call's beginning and its arguments.
#[derive(Debug)]
struct Head {
    name: String,
    text: String,
}

#[derive(Clone, Debug)]
enum State {
    Text,
    Arguments(JsonEnd),
    /// Behind the arguments.
    Tail,
}

/// What begins somewhere in the text.
enum Begun {
    Call {
        name: String,
        length: usize,
    },
    /// More text is needed to tell.
    Perhaps,
    Text,
}

/// What some text turned out to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Split {
    /// Not part of any call.
    pub text: String,
    pub calls: Vec<CallPiece>,
}

/// A piece of a call: its name, or more of its arguments.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CallPiece {
    /// Of the call in the output.
    pub index: u32,
    /// In a call's first piece, and only there.
    pub name: Option<String>,
    /// JSON, from where it ended.
    pub arguments: String,
}

impl CallSplitter {
    pub(crate) fn new(syntax: Syntax, tools: &[&Tool], has_format: bool) -> Self {
        let head = |tool: &&Tool| Head {
            name: tool.name.clone(),
            text: format!("{}{}{}{}", syntax.begin, syntax.open, tool.name, syntax.middle),
        };
        CallSplitter {
            syntax,
            heads: tools.iter().map(head).collect(),
            has_format,
            state: State::Text,
            pending: String::new(),
            calls: 0,
            is_blank: true,
        }
    }

    /// Calls that have begun.
    pub fn calls(&self) -> u32 {
        self.calls
    }

    pub fn push(&mut self, text: &str) -> Split {
        let mut split = Split::default();
        self.pending.push_str(text);
        while self.step(&mut split) {}
        split
    }

    /// The rest, at the end of the output. A call that was broken off stays as it is.
    pub fn finish(&mut self) -> Split {
        let mut rest = std::mem::take(&mut self.pending);
        if !matches!(self.state, State::Text) {
            return Split::default();
        }
        match rest.find(self.syntax.begin) {
            // A call that was broken off before its name was told.
            Some(at) if !self.has_format || self.calls > 0 => {
                rest.truncate(rest[..at].trim_end().len());
            }
            // White space after a call says nothing.
            None if self.calls > 0 && rest.trim().is_empty() => rest.clear(),
            _ => {}
        }
        Split { text: rest, calls: Vec::new() }
    }

    /// Moves on in `pending`; false when more text is needed.
    fn step(&mut self, split: &mut Split) -> bool {
        match &mut self.state {
            State::Text => self.text(split),
            State::Arguments(json) => {
                let end = json.find(&self.pending);
                let taken = end.unwrap_or(self.pending.len());
                let arguments: String = self.pending.drain(..taken).collect();
                if !arguments.is_empty() {
                    let index = self.calls - 1;
                    split.calls.push(CallPiece { index, name: None, arguments });
                }
                if end.is_some() {
                    self.state = State::Tail;
                }
                end.is_some()
            }
            State::Tail => {
                let close = self.syntax.close;
                let Some(at) = self.pending.find(close) else { return false };
                self.pending.drain(..at + close.len());
                self.state = State::Text;
                true
            }
        }
    }

    fn text(&mut self, split: &mut Split) -> bool {
        let Some(at) = self.begins() else {
            let held = self.held_back();
            self.show(split, self.pending.len() - held);
            return false;
        };
        match self.begun(&self.pending[at..]) {
            Begun::Call { name, length } => {
                // White space before a call belongs to neither.
                self.show(split, self.pending[..at].trim_end().len());
                let space = self.pending.len() - self.pending.trim_start().len();
                self.pending.drain(..space + length);
                let index = self.calls;
                self.calls += 1;
                split.calls.push(CallPiece { index, name: Some(name), arguments: String::new() });
                self.state = State::Arguments(JsonEnd::default());
                true
            }
            Begun::Perhaps => {
                self.show(split, self.pending[..at].trim_end().len());
                false
            }
            Begun::Text => {
                self.show(split, at + self.syntax.begin.len());
                true
            }
        }
    }

    /// Where a call may begin in `pending`.
    fn begins(&self) -> Option<usize> {
        let begin = self.syntax.begin;
        if !self.is_first_alone() {
            return self.pending.find(begin);
        }
        let text = self.pending.trim_start();
        (self.may_call() && text.starts_with(begin)).then(|| self.pending.len() - text.len())
    }

    /// What `text` is, which begins like a call.
    fn begun(&self, text: &str) -> Begun {
        if let Some(head) = self.heads.iter().find(|head| text.starts_with(&head.text)) {
            return Begun::Call { name: head.name.clone(), length: head.text.len() };
        }
        match self.heads.iter().any(|head| head.text.starts_with(text)) {
            true => Begun::Perhaps,
            false => Begun::Text,
        }
    }

    /// How much of the end of `pending` may be the beginning of a call, white space before it
    /// included.
    fn held_back(&self) -> usize {
        let (begin, text) = (self.syntax.begin, self.pending.as_str());
        if self.is_first_alone() {
            let may_begin = self.may_call() && begin.starts_with(text.trim_start());
            return if may_begin { text.len() } else { 0 };
        }
        let partial = (0..=begin.len().min(text.len()))
            .rev()
            .find(|&length| text.ends_with(&begin[..length]))
            .unwrap_or(0);
        text.len() - text[..text.len() - partial].trim_end().len()
    }

    /// Whether calls are at the output's beginning or nowhere.
    fn is_first_alone(&self) -> bool {
        self.syntax.is_whole || self.has_format
    }

    /// Whether a call may come next, if calls are at the beginning.
    fn may_call(&self) -> bool {
        self.is_blank && (self.calls == 0 || self.syntax.is_repeated)
    }

    /// The next `length` bytes of `pending` are text.
    fn show(&mut self, split: &mut Split, length: usize) {
        let text = self.pending.drain(..length);
        self.is_blank &= text.as_str().trim().is_empty();
        split.text.extend(text);
    }
}

/// Looks for the end of a JSON object.
#[derive(Clone, Debug, Default)]
struct JsonEnd {
    depth: u32,
    in_string: bool,
    escaped: bool,
}

impl JsonEnd {
    /// Where the object ends in `text`, if it does; otherwise all of it was read.
    fn find(&mut self, text: &str) -> Option<usize> {
        for (at, byte) in text.bytes().enumerate() {
            match byte {
                _ if self.escaped => self.escaped = false,
                b'\\' if self.in_string => self.escaped = true,
                b'"' => self.in_string = !self.in_string,
                b'{' | b'[' if !self.in_string => self.depth += 1,
                b'}' | b']' if !self.in_string => {
                    self.depth = self.depth.saturating_sub(1);
                    if self.depth == 0 {
                        return Some(at + 1);
                    }
                }
                _ => {}
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::tools::{HERMES, LLAMA_3};

    /// The text, and each call's name and arguments, of `output` pushed in pieces that end at
    /// `cuts`.
    fn split(syntax: Syntax, output: &str, cuts: &[usize]) -> (String, Vec<(String, String)>) {
        split_by(splitter(syntax, false), output, cuts)
    }

    fn splitter(syntax: Syntax, has_format: bool) -> CallSplitter {
        let tool = |name: &str| Tool {
            name: name.to_owned(),
            description: None,
            parameters: serde_json::json!({}),
        };
        let tools = ["f", "weather", "time"].map(tool);
        CallSplitter::new(syntax, &tools.each_ref(), has_format)
    }

    fn split_by(
        mut splitter: CallSplitter,
        output: &str,
        cuts: &[usize],
    ) -> (String, Vec<(String, String)>) {
        let mut ends: Vec<usize> = cuts.iter().map(|cut| cut % (output.len() + 1)).collect();
        ends.push(output.len());
        ends.sort_unstable();
        let (mut text, mut calls, mut done) = (String::new(), Vec::new(), 0);
        let mut take = |split: Split| {
            text.push_str(&split.text);
            for piece in split.calls {
                match piece.name {
                    Some(name) => calls.push((name, piece.arguments)),
                    None => calls[piece.index as usize].1.push_str(&piece.arguments),
                }
            }
        };
        for end in ends {
            if output.is_char_boundary(end) {
                take(splitter.push(&output[done..end]));
                done = end;
            }
        }
        take(splitter.finish());
        (text, calls)
    }

    fn call(name: &str, arguments: &str) -> (String, String) {
        (name.to_owned(), arguments.to_owned())
    }

    const TWO: &str = "Let me look. \n<tool_call>\n{\"name\": \"weather\", \"arguments\": \
        {\"city\": \"A \\\"}{\", \"in\": {\"days\": [1]}}}\n</tool_call>\n<tool_call>\n\
        {\"name\": \"time\", \"arguments\": {}}\n</tool_call>";

    fn two() -> (String, Vec<(String, String)>) {
        let arguments = r#"{"city": "A \"}{", "in": {"days": [1]}}"#;
        ("Let me look.".to_owned(), vec![call("weather", arguments), call("time", "{}")])
    }

    proptest! {
        /// However the output comes, its calls and its text are the same.
        #[test]
        fn pieces_make_the_whole(cuts in prop::collection::vec(any::<usize>(), 0..60)) {
            prop_assert_eq!(split(HERMES, TWO, &cuts), two());
            for text in ["a < b <tool", "no call <tool_cal>", " \n", "<tool_call", "<tool_call> of 2",
                "<tool_call>\n{\"name\": \"moon\", \"arguments\": {}}\n</tool_call>"] {
                prop_assert_eq!(split(HERMES, text, &cuts), (text.to_owned(), vec![]));
            }
            let whole = "{\"name\": \"f\", \"parameters\": {\"x\": 1}}";
            prop_assert_eq!(
                split(LLAMA_3, whole, &cuts),
                (String::new(), vec![call("f", "{\"x\": 1}")])
            );
            for told in ["It is {\"name\": \"f\"}.", "{\"name\": \"g\", \"parameters\": {}}"] {
                prop_assert_eq!(split(LLAMA_3, told, &cuts), (told.to_owned(), vec![]));
            }
        }
    }

    proptest! {
        /// An answer in a format is shown as it is, whatever it has in it; calls are none of it.
        #[test]
        fn a_format_may_hold_what_looks_like_calls(
            cuts in prop::collection::vec(any::<usize>(), 0..60),
        ) {
            let answers = [
                (HERMES, format!("{{\"say\": {}}}", serde_json::json!(TWO))),
                (HERMES, "\n<tool_calls>".to_owned()),
                (HERMES, "<tool_call>\n{\"name\": \"tim".to_owned()),
                (LLAMA_3, "{\"name\": \"Paris\", \"parameters\": {}}".to_owned()),
                (LLAMA_3, "{\"name\": \"f\", \"country\": \"France\"}".to_owned()),
                (LLAMA_3, " {\"name\": \"we".to_owned()),
            ];
            for (syntax, answer) in answers {
                let parts = split_by(splitter(syntax, true), &answer, &cuts);
                prop_assert_eq!(parts, (answer, vec![]));
            }
            let calls = &TWO[TWO.find('<').unwrap()..];
            let parts = split_by(splitter(HERMES, true), calls, &cuts);
            prop_assert_eq!(parts, (String::new(), two().1));
        }
    }

    #[test]
    fn a_call_that_was_broken_off_shows_what_there_was() {
        let cut = &TWO[..TWO.find("days").unwrap()];
        let (text, calls) = split(HERMES, cut, &[]);
        assert_eq!(text, "Let me look.");
        assert_eq!(calls, [call("weather", r#"{"city": "A \"}{", "in": {""#)]);
        let cut = &TWO[..TWO.find("her").unwrap()];
        assert_eq!(split(HERMES, cut, &[]), ("Let me look.".to_owned(), vec![]));
    }
}
