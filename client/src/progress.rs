//! What came of a stream, from all its connections. Pure.
//!
//! **Invariant** (`exact-stream`): each token of each choice is told the caller once, in order.

use baton_proto::v1::{Received, Resume, Started, generate_response};

use crate::{Chunk, Event};

/// How far a caller is.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    started: Option<Started>,
    choices: Vec<Choice>,
}

#[derive(Clone, Debug, Default)]
struct Choice {
    tokens: Vec<u32>,
    is_over: bool,
}

impl Progress {
    pub(crate) fn new(choices: usize) -> Self {
        Progress { started: None, choices: vec![Choice::default(); choices] }
    }

    /// Takes in what a router says. What the caller is to hear of it; or what is wrong with it.
    pub(crate) fn hear(&mut self, said: generate_response::Event) -> Result<Option<Event>, String> {
        match said {
            generate_response::Event::Started(started) => {
                let before = self.started.replace(started.clone());
                match before {
                    None => Ok(Some(Event::Started(started))),
                    Some(before) if before.seed == started.seed => Ok(None),
                    Some(Started { seed, .. }) => {
                        Err(format!("a stream with the seed {seed} goes on with {}", started.seed))
                    }
                }
            }
            generate_response::Event::Chunk(chunk) => {
                let choice = self.choice(chunk.choice)?;
                let (next, index) = (choice.tokens.len(), chunk.index);
                if index as usize != next || choice.is_over {
                    return Err(format!("token {index} came where {next} was the next"));
                }
                choice.tokens.extend_from_slice(&chunk.token_ids);
                Ok(Some(Event::Chunk(chunk)))
            }
            generate_response::Event::Complete(complete) => {
                let choice = self.choice(complete.choice)?;
                if std::mem::replace(&mut choice.is_over, true) {
                    return Err(format!("choice {} was complete twice", complete.choice));
                }
                Ok(Some(Event::Complete(complete)))
            }
        }
    }

    fn choice(&mut self, index: u32) -> Result<&mut Choice, String> {
        let choices = self.choices.len();
        if self.started.is_none() {
            return Err("a stream begins with Started".to_owned());
        }
        let choice = self.choices.get_mut(index as usize);
        choice.ok_or_else(|| format!("choice {index} came of {choices}"))
    }

    /// Nothing more is to come.
    pub(crate) fn is_over(&self) -> bool {
        self.choices.iter().all(|choice| choice.is_over)
    }

    pub(crate) fn has_first_token(&self) -> bool {
        self.choices.iter().any(|choice| choice.is_over || !choice.tokens.is_empty())
    }

    /// The latest of its names.
    pub(crate) fn request_id(&self) -> &str {
        self.started.as_ref().map_or("", |started| &started.request_id)
    }

    pub(crate) fn seed(&self) -> Option<u64> {
        self.started.as_ref().map(|started| started.seed)
    }

    /// What another connection needs to know, if there was one that came so far.
    pub(crate) fn resume(&self) -> Option<Resume> {
        let started = self.started.as_ref()?;
        let received = |choice: &Choice| Received {
            token_ids: choice.tokens.clone(),
            complete: choice.is_over,
        };
        let received = self.choices.iter().map(received).collect();
        Some(Resume { request_id: started.request_id.clone(), received })
    }
}

impl Event {
    /// Whether it brings the stream on.
    pub(crate) fn is_progress(&self) -> bool {
        match self {
            Event::Started(_) => false,
            Event::Chunk(Chunk { token_ids, .. }) => !token_ids.is_empty(),
            Event::Complete(_) => true,
        }
    }
}

#[cfg(test)]
mod tests {
    use baton_proto::v1::{Complete, generate_response::Event as Said};

    use super::*;

    fn started(id: &str, seed: u64) -> Said {
        Said::Started(Started { request_id: id.into(), seed, ..Started::default() })
    }

    fn chunk(choice: u32, index: u32, tokens: &[u32]) -> Said {
        Said::Chunk(Chunk { choice, index, token_ids: tokens.to_vec(), ..Chunk::default() })
    }

    fn complete(choice: u32) -> Said {
        Said::Complete(Complete { choice, ..Complete::default() })
    }

    #[test]
    fn a_stream_goes_on_where_it_was() {
        let mut progress = Progress::new(2);
        assert_eq!(progress.resume(), None);
        for said in [started("a", 7), chunk(0, 0, &[5, 6]), chunk(1, 0, &[8]), complete(1)] {
            assert!(progress.hear(said).unwrap().is_some());
        }
        assert!(!progress.is_over() && progress.has_first_token());
        let resume = progress.resume().unwrap();
        assert_eq!((resume.request_id.as_str(), progress.seed()), ("a", Some(7)));
        let received: Vec<_> =
            resume.received.iter().map(|one| (&one.token_ids[..], one.complete)).collect();
        assert_eq!(received, [(&[5, 6][..], false), (&[8][..], true)]);
        assert!(progress.hear(started("b", 7)).unwrap().is_none(), "the caller has heard it");
        assert_eq!(progress.request_id(), "b");
        progress.hear(chunk(0, 2, &[9])).unwrap();
        progress.hear(complete(0)).unwrap();
        assert!(progress.is_over());
    }

    #[test]
    fn what_a_stream_can_not_say_is_refused() {
        for (before, said) in [
            (vec![], chunk(0, 0, &[1])),
            (vec![started("a", 1)], chunk(0, 1, &[1])),
            (vec![started("a", 1)], chunk(1, 0, &[1])),
            (vec![started("a", 1)], started("b", 2)),
            (vec![started("a", 1), chunk(0, 0, &[1, 2])], chunk(0, 1, &[2])),
            (vec![started("a", 1), complete(0)], complete(0)),
            (vec![started("a", 1), complete(0)], chunk(0, 0, &[1])),
        ] {
            let mut progress = Progress::new(1);
            for event in before {
                progress.hear(event).unwrap();
            }
            assert!(progress.hear(said.clone()).is_err(), "{said:?}");
        }
    }
}
