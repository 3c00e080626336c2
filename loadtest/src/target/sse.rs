//! Server-sent events, out of pieces of any size (WHATWG HTML, "Server-sent events").

use std::ops::Range;

/// Splits a stream into its events.
#[derive(Debug, Default)]
pub(super) struct Events {
    /// What has come and isn't taken.
    bytes: Vec<u8>,
    /// All before this is.
    taken: usize,
    /// The first line that isn't known yet to be whole begins here,
    line: usize,
    /// and up to here it has no end.
    searched: usize,
    /// Of the event that has begun.
    data: Option<Range<usize>>,
    id: Option<Range<usize>>,
}

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event<'a> {
    pub(super) data: &'a [u8],
    pub(super) id: Option<&'a [u8]>,
}

/// Longer events are nobody's answer.
const LONGEST: usize = 16 << 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of {0} bytes and more; the longest that is taken has {LONGEST}")]
pub(super) struct TooLong(usize);

impl Events {
    /// More has come.
    pub(super) fn push(&mut self, bytes: &[u8]) -> Result<(), TooLong> {
        let by = std::mem::take(&mut self.taken);
        if by > 0 {
            self.bytes.drain(..by);
            self.line -= by;
            self.searched -= by;
            for range in [&mut self.data, &mut self.id].into_iter().flatten() {
                *range = range.start - by..range.end - by;
            }
        }
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > LONGEST { Err(TooLong(self.bytes.len())) } else { Ok(()) }
    }

    /// The next one that has data and is whole: an event is over with an empty line.
    pub(super) fn next(&mut self) -> Option<Event<'_>> {
        loop {
            let Some(length) = memchr::memchr(b'\n', &self.bytes[self.searched..]) else {
                self.searched = self.bytes.len();
                return None;
            };
            let (from, to) = (self.line, self.searched + length);
            (self.line, self.searched) = (to + 1, to + 1);
            let to = if to > from && self.bytes[to - 1] == b'\r' { to - 1 } else { to };
            if from == to {
                self.taken = self.line;
                let (data, id) = (self.data.take(), self.id.take());
                let Some(data) = data else { continue };
                let id = id.map(|range| &self.bytes[range]);
                return Some(Event { data: &self.bytes[data], id });
            }
            self.field(from, to);
        }
    }

    fn field(&mut self, from: usize, to: usize) {
        let line = &self.bytes[from..to];
        let value = |name: usize| {
            let spaces = usize::from(line.get(name) == Some(&b' '));
            from + name + spaces..to
        };
        if line.starts_with(b"data:") {
            self.data = Some(value(5));
        } else if line.starts_with(b"id:") {
            self.id = Some(value(3));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_of_any_size_say_the_same() {
        let text = b": hello\nid: 7\r\ndata: {\"a\":1}\r\n\r\nevent: x\ndata:b\n\ndata: [DONE]\n\n";
        for size in 1..text.len() {
            let mut events = Events::default();
            let mut said = Vec::new();
            for piece in text.chunks(size) {
                events.push(piece).unwrap();
                while let Some(event) = events.next() {
                    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
                    said.push((text(event.data), event.id.map(text)));
                }
            }
            let id = Some("7".to_owned());
            let expected =
                [("{\"a\":1}".to_owned(), id), ("b".to_owned(), None), ("[DONE]".to_owned(), None)];
            assert_eq!(said, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn an_event_without_end_is_refused() {
        let mut events = Events::default();
        let piece = vec![b'x'; LONGEST / 2];
        assert_eq!(events.push(&piece), Ok(()));
        assert!(events.next().is_none());
        assert_eq!(events.push(&piece), Ok(()));
        assert_eq!(events.push(b"x"), Err(TooLong(LONGEST + 1)));
    }
}
