/// The most stop strings a request may have,
const MAX_STRINGS: usize = 16;
/// and the most bytes one may have.
const MAX_BYTES: usize = 256;

/// Finds stop strings in text that comes piece by piece, and holds back what may be the beginning
/// of one: a stop string never leaks its beginning.
#[derive(Clone, Debug, Default)]
pub struct StopMatcher {
    stops: Vec<String>,
    held: String,
    stopped: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StopError {
    #[error("{given} stop strings; at most {MAX_STRINGS} are allowed")]
    TooMany { given: usize },
    #[error("a stop string is empty; each must have at least one character")]
    Empty,
    #[error("a stop string has {given} bytes; at most {MAX_BYTES} are allowed")]
    TooLong { given: usize },
}

/// What a piece of text amounts to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matched {
    /// Safe to show.
    pub text: String,
    /// A stop string was found, here or before; nothing more will be shown.
    pub stopped: bool,
}

impl StopMatcher {
    pub fn new(stops: Vec<String>) -> Result<Self, StopError> {
        if stops.len() > MAX_STRINGS {
            return Err(StopError::TooMany { given: stops.len() });
        }
        for stop in &stops {
            match stop.len() {
                0 => return Err(StopError::Empty),
                1..=MAX_BYTES => {}
                given => return Err(StopError::TooLong { given }),
            }
        }
        Ok(StopMatcher { stops, held: String::new(), stopped: false })
    }

    /// Adds `piece`. The string whose end comes first stops; of several, the longest.
    pub fn push(&mut self, piece: &str) -> Matched {
        if self.stopped {
            return Matched { text: String::new(), stopped: true };
        }
        self.held.push_str(piece);
        let first = self
            .stops
            .iter()
            .filter_map(|stop| self.held.find(stop).map(|start| (start + stop.len(), start)))
            .min();
        if let Some((_, start)) = first {
            self.stopped = true;
            let mut text = std::mem::take(&mut self.held);
            text.truncate(start);
            return Matched { text, stopped: true };
        }
        let held_from = self.held.len() - self.possible_beginning();
        let rest = self.held.split_off(held_from);
        Matched { text: std::mem::replace(&mut self.held, rest), stopped: false }
    }

    /// What was held back, at the end of the output.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Length of the longest end of the held text that begins a stop string.
    fn possible_beginning(&self) -> usize {
        let begins = |stop: &String| {
            let longest = self.held.len().min(stop.len() - 1);
            (1..=longest)
                .rev()
                .find(|&len| self.held.as_bytes().ends_with(&stop.as_bytes()[..len]))
                .unwrap_or(0)
        };
        self.stops.iter().map(begins).max().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn run(stops: &[String], pieces: &[&str]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.to_vec()).unwrap();
        let mut shown = String::new();
        for piece in pieces {
            let matched = matcher.push(piece);
            shown.push_str(&matched.text);
            if matched.stopped {
                return (shown, true);
            }
        }
        shown.push_str(&matcher.finish());
        (shown, false)
    }

    /// Character by character over the whole text.
    fn naive(stops: &[String], text: &str) -> (String, bool) {
        for (end, c) in text.char_indices() {
            let seen = &text[..end + c.len_utf8()];
            let longest = stops.iter().filter(|stop| seen.ends_with(*stop)).map(String::len).max();
            if let Some(len) = longest {
                return (seen[..seen.len() - len].to_owned(), true);
            }
        }
        (text.to_owned(), false)
    }

    proptest! {
        #[test]
        fn pieces_stop_where_the_whole_does(
            stops in prop::collection::vec("[abé]{1,4}", 0..4),
            pieces in prop::collection::vec("[abcé]{0,3}", 0..12),
        ) {
            let pieces: Vec<_> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&stops, &pieces), naive(&stops, &pieces.concat()));
        }
    }

    #[test]
    fn nonsense_is_refused() {
        let new = |stops: &[&str]| StopMatcher::new(stops.iter().map(|s| s.to_string()).collect());
        assert_eq!(new(&[""]).unwrap_err(), StopError::Empty);
        assert_eq!(new(&["x"; 17]).unwrap_err(), StopError::TooMany { given: 17 });
        assert_eq!(new(&[&"x".repeat(257)]).unwrap_err(), StopError::TooLong { given: 257 });
    }
}
