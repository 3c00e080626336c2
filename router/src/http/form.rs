//! A message whose text alone changes: rendered once, filled in for each token.

/// What stands before the text and what after it.
#[derive(Debug)]
pub(super) struct Form {
    before: String,
    after: String,
}

impl Form {
    /// Stands where the text will. A noncharacter: nobody else's text.
    pub(super) const MARK: &'static str = "\u{FDD1}";

    /// The form of a message that has [`Form::MARK`] as a string.
    pub(super) fn of(message: &str) -> Option<Self> {
        let (before, after) = message.rsplit_once(&format!("\"{}\"", Form::MARK))?;
        Some(Form { before: before.to_owned(), after: after.to_owned() })
    }

    /// Appends the message with `text`.
    pub(super) fn fill(&self, text: &str, message: &mut Vec<u8>) {
        message.extend_from_slice(self.before.as_bytes());
        serde_json::to_writer(&mut *message, text).expect("a string can be written to memory");
        message.extend_from_slice(self.after.as_bytes());
    }

    /// Bytes of the message but for its text.
    pub(super) fn len(&self) -> usize {
        self.before.len() + self.after.len()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_form_is_filled_with_any_text() {
        let message =
            |text: &str| json!({ "model": "a\"b", "choices": [{ "text": text }], "x": 1 });
        let form = Form::of(&message(Form::MARK).to_string()).unwrap();
        for text in ["", "a", "\"\\\n\u{1}", "é€😀", Form::MARK] {
            let mut filled = Vec::new();
            form.fill(text, &mut filled);
            assert_eq!(String::from_utf8(filled).unwrap(), message(text).to_string());
        }
        assert!(Form::of("{}").is_none());
    }
}
