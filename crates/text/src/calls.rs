use crate::tools::Syntax;

/// Finds the calls of tools in an output, piece by piece.
///
/// Text is held back while it may be the beginning of a call; a call's name comes whole, its
/// arguments as they are written. Rebuilt by pushing the same text.
#[derive(Clone, Debug)]
pub struct CallSplitter {
    syntax: Syntax,
    state: State,
    /// Not understood yet.
    pending: String,
    calls: u32,
    /// Nothing but white space was shown.
    is_blank: bool,
}

#[derive(Clone, Debug)]
enum State {
    Text,
    /// Behind the beginning of a call.
    Head,
    Arguments(JsonEnd),
    /// Behind the arguments.
    Tail,
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
    pub(crate) fn new(syntax: Syntax) -> Self {
        CallSplitter {
            syntax,
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
        let rest = std::mem::take(&mut self.pending);
        match self.state {
            // White space after a call says nothing.
            State::Text if self.calls > 0 && rest.trim().is_empty() => Split::default(),
            State::Text => Split { text: rest, calls: Vec::new() },
            State::Head | State::Arguments(_) | State::Tail => Split::default(),
        }
    }

    /// Moves on in `pending`; false when more text is needed.
    fn step(&mut self, split: &mut Split) -> bool {
        match &mut self.state {
            State::Text => self.text(split),
            State::Head => {
                let Syntax { open, middle, .. } = self.syntax;
                let Some(at) = self.pending.find(middle) else { return false };
                let name = self.pending[..at].trim_start_matches(open).to_owned();
                self.pending.drain(..at + middle.len());
                let index = self.calls;
                self.calls += 1;
                split.calls.push(CallPiece { index, name: Some(name), arguments: String::new() });
                self.state = State::Arguments(JsonEnd::default());
                true
            }
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
        let begin = self.syntax.begin;
        if let Some(at) = self.begins() {
            // White space before a call belongs to neither.
            let text = self.pending[..at].trim_end().to_owned();
            self.pending.drain(..at + begin.len());
            self.show(split, &text);
            self.state = State::Head;
            return true;
        }
        let held = self.held_back();
        let text: String = self.pending.drain(..self.pending.len() - held).collect();
        self.show(split, &text);
        false
    }

    /// Where a call begins in `pending`.
    fn begins(&self) -> Option<usize> {
        let Syntax { begin, is_whole, .. } = self.syntax;
        if !is_whole {
            return self.pending.find(begin);
        }
        let text = self.pending.trim_start();
        let is_first = self.is_blank && self.calls == 0;
        (is_first && text.starts_with(begin)).then(|| self.pending.len() - text.len())
    }

    /// How much of the end of `pending` may be the beginning of a call, white space before it
    /// included.
    fn held_back(&self) -> usize {
        let Syntax { begin, is_whole, .. } = self.syntax;
        let text = self.pending.as_str();
        if is_whole {
            let may_begin =
                self.is_blank && self.calls == 0 && begin.starts_with(text.trim_start());
            return if may_begin { text.len() } else { 0 };
        }
        let partial = (0..=begin.len().min(text.len()))
            .rev()
            .find(|&length| text.ends_with(&begin[..length]))
            .unwrap_or(0);
        text.len() - text[..text.len() - partial].trim_end().len()
    }

    fn show(&mut self, split: &mut Split, text: &str) {
        self.is_blank &= text.trim().is_empty();
        split.text.push_str(text);
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
        let mut splitter = CallSplitter::new(syntax);
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
            for text in ["a < b <tool", "no call <tool_cal>", " \n", "<tool_call"] {
                prop_assert_eq!(split(HERMES, text, &cuts), (text.to_owned(), vec![]));
            }
            let whole = "{\"name\": \"f\", \"parameters\": {\"x\": 1}}";
            prop_assert_eq!(
                split(LLAMA_3, whole, &cuts),
                (String::new(), vec![call("f", "{\"x\": 1}")])
            );
            let told = "It is {\"name\": \"f\"}.";
            prop_assert_eq!(split(LLAMA_3, told, &cuts), (told.to_owned(), vec![]));
        }
    }

    #[test]
    fn a_call_that_was_broken_off_shows_what_there_was() {
        let cut = &TWO[..TWO.find("days").unwrap()];
        let (text, calls) = split(HERMES, cut, &[]);
        assert_eq!(text, "Let me look.");
        assert_eq!(calls, [call("weather", r#"{"city": "A \"}{", "in": {""#)]);
    }
}
