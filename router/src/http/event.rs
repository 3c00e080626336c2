//! One server-sent event, in the least room: streams keep their latest for who comes again.

use std::{io::Write as _, sync::Arc};

use axum::body::Bytes;

use super::form::Form;

#[derive(Debug)]
pub(super) enum Event {
    /// Its data, as it is.
    Whole(Box<str>),
    /// Text in the form that all of its choice's pieces have.
    Text(Arc<Form>, Box<str>),
}

impl Event {
    /// Number `number` of the stream `name`, as it is sent.
    pub(super) fn render(&self, name: &str, number: u64) -> Bytes {
        let mut event = Vec::with_capacity(name.len() + self.len() + 48);
        write!(event, "id: {name}:{number}\ndata: ").expect("it can be written to memory");
        match self {
            Event::Whole(data) => event.extend_from_slice(data.as_bytes()),
            Event::Text(form, text) => form.fill(text, &mut event),
        }
        event.extend_from_slice(b"\n\n");
        event.into()
    }

    /// About the bytes of its data, when sent.
    fn len(&self) -> usize {
        match self {
            Event::Whole(data) => data.len(),
            Event::Text(form, text) => form.len() + text.len(),
        }
    }

    /// Bytes it takes while it is kept. What it shares with others isn't counted.
    pub(super) fn kept_bytes(&self) -> usize {
        let (Event::Whole(data) | Event::Text(_, data)) = self;
        size_of::<Event>() + data.len()
    }
}

impl From<String> for Event {
    fn from(data: String) -> Self {
        Event::Whole(data.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_in_a_form_is_sent_like_a_whole_one() {
        let form = Arc::new(Form::of(&format!("{{\"text\":\"{}\"}}", Form::MARK)).unwrap());
        let text = Event::Text(form, "a\"b\n".into());
        let whole = Event::from("{\"text\":\"a\\\"b\\n\"}".to_owned());
        assert_eq!(text.render("s", 12), whole.render("s", 12));
        assert_eq!(whole.render("s", 12), "id: s:12\ndata: {\"text\":\"a\\\"b\\n\"}\n\n");
        assert!(text.kept_bytes() < 64, "{} bytes for four characters", text.kept_bytes());
    }
}
