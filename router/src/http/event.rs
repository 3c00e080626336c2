//! One server-sent event, in the least room: streams keep their latest for who comes again.

use std::{io::Write as _, sync::Arc};

use axum::body::Bytes;

use super::form::Form;

#[derive(Debug)]
pub(super) struct Event {
    data: Data,
    /// How far its client is then: the end of its id.
    progress: Box<str>,
}

#[derive(Debug)]
enum Data {
    /// As it is.
    Whole(Box<str>),
    /// Text in the form that all of its choice's pieces have.
    Text(Arc<Form>, Box<str>),
}

impl Event {
    /// Text in a form.
    pub(super) fn text(form: Arc<Form>, text: Box<str>) -> Self {
        Event { data: Data::Text(form, text), progress: Box::default() }
    }

    /// The same event, by whose id its client is so far.
    pub(super) fn at(self, progress: Box<str>) -> Self {
        Event { progress, ..self }
    }

    /// Number `number` of the stream `name`, as it is sent.
    pub(super) fn render(&self, name: &str, number: u64) -> Bytes {
        let mut event = Vec::with_capacity(name.len() + self.len() + 48);
        let progress = &self.progress;
        write!(event, "id: {name}:{number}{progress}\ndata: ")
            .expect("it can be written to memory");
        match &self.data {
            Data::Whole(data) => event.extend_from_slice(data.as_bytes()),
            Data::Text(form, text) => form.fill(text, &mut event),
        }
        event.extend_from_slice(b"\n\n");
        event.into()
    }

    /// About the bytes of its data, when sent.
    fn len(&self) -> usize {
        match &self.data {
            Data::Whole(data) => data.len(),
            Data::Text(form, text) => form.len() + text.len(),
        }
    }

    /// Bytes it takes while it is kept. What it shares with others isn't counted.
    pub(super) fn kept_bytes(&self) -> usize {
        let (Data::Whole(data) | Data::Text(_, data)) = &self.data;
        size_of::<Event>() + data.len() + self.progress.len()
    }
}

impl From<String> for Event {
    fn from(data: String) -> Self {
        Event { data: Data::Whole(data.into()), progress: Box::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_in_a_form_is_sent_like_a_whole_one() {
        let form = Arc::new(Form::of(&format!("{{\"text\":\"{}\"}}", Form::MARK)).unwrap());
        let text = Event::text(form, "a\"b\n".into());
        let whole = Event::from("{\"text\":\"a\\\"b\\n\"}".to_owned());
        assert_eq!(text.render("s", 12), whole.render("s", 12));
        assert_eq!(whole.render("s", 12), "id: s:12\ndata: {\"text\":\"a\\\"b\\n\"}\n\n");
        let further = text.at(":c".into());
        assert!(further.render("s", 12).starts_with(b"id: s:12:c\n"));
        let text = further;
        assert!(text.kept_bytes() < 80, "{} bytes for four characters", text.kept_bytes());
    }
}
