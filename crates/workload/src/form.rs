//! `name:key=value,key=value`, as [`Arrivals`](crate::Arrivals) and [`Lengths`](crate::Lengths) are written on a
//! command line.

use std::str::FromStr;

use crate::{DurationError, WorkloadError, duration::parse_duration};

/// What is wrong with arrivals or lengths as they were written.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum FormError {
    #[error("{given:?} is unknown; expected one of {expected}")]
    Unknown { given: String, expected: String },
    #[error("{given:?} is no key=value; expected {expected}")]
    Part { given: String, expected: &'static str },
    #[error("{given:?} is no key of it; expected {expected}")]
    Key { given: String, expected: &'static str },
    #[error("{given:?} has {key} twice; expected {expected}")]
    Twice { given: String, key: String, expected: &'static str },
    #[error("{given:?} has no {key}; expected {expected}")]
    Missing { given: String, key: &'static str, expected: &'static str },
    #[error("{given:?} has rates of its own; leave out the other")]
    Rates { given: String },
    #[error("{key} is {given:?}; expected {expected}")]
    Number { key: &'static str, given: String, expected: &'static str },
    #[error("{key}: {source}")]
    Duration { key: &'static str, source: DurationError },
    #[error(transparent)]
    Value(#[from] WorkloadError),
}

/// One that is being taken apart. What nobody took is refused in the end.
#[derive(Debug)]
pub(crate) struct Form<'a> {
    given: &'a str,
    parts: Vec<(&'a str, &'a str)>,
    expected: &'static str,
}

impl<'a> Form<'a> {
    /// `rest` is what follows the colon of `given`; `expected` is how all of it is written.
    pub(crate) fn new(
        given: &'a str,
        rest: Option<&'a str>,
        expected: &'static str,
    ) -> Result<Self, FormError> {
        let mut parts: Vec<(&str, &str)> = Vec::new();
        for part in rest.into_iter().flat_map(|rest| rest.split(',')) {
            let (key, value) = part
                .split_once('=')
                .ok_or_else(|| FormError::Part { given: part.to_owned(), expected })?;
            if parts.iter().any(|(before, _)| *before == key) {
                let (given, key) = (given.to_owned(), key.to_owned());
                return Err(FormError::Twice { given, key, expected });
            }
            parts.push((key, value));
        }
        Ok(Form { given, parts, expected })
    }

    pub(crate) fn has(&self, key: &str) -> bool {
        self.parts.iter().any(|(name, _)| *name == key)
    }

    fn take(&mut self, key: &str) -> Option<&'a str> {
        let index = self.parts.iter().position(|(name, _)| *name == key)?;
        Some(self.parts.swap_remove(index).1)
    }

    fn must(&mut self, key: &'static str) -> Result<&'a str, FormError> {
        let (given, expected) = (self.given, self.expected);
        let missing = || FormError::Missing { given: given.to_owned(), key, expected };
        self.take(key).ok_or_else(missing)
    }

    pub(crate) fn number(&mut self, key: &'static str) -> Result<f64, FormError> {
        let value = self.must(key)?;
        number(key, value, "a number")
    }

    pub(crate) fn tokens(&mut self, key: &'static str) -> Result<u32, FormError> {
        let value = self.must(key)?;
        tokens(key, value)
    }

    pub(crate) fn tokens_or(&mut self, key: &'static str, or: u32) -> Result<u32, FormError> {
        self.take(key).map_or(Ok(or), |value| tokens(key, value))
    }

    /// In seconds.
    pub(crate) fn duration(&mut self, key: &'static str) -> Result<f64, FormError> {
        let value = self.must(key)?;
        let duration = parse_duration(value);
        duration.map_err(|source| FormError::Duration { key, source }).map(|it| it.as_secs_f64())
    }

    pub(crate) fn end(self) -> Result<(), FormError> {
        let Some((given, _)) = self.parts.first() else { return Ok(()) };
        Err(FormError::Key { given: (*given).to_owned(), expected: self.expected })
    }
}

pub(crate) fn tokens(key: &'static str, given: &str) -> Result<u32, FormError> {
    number(key, given, "a number of tokens")
}

fn number<T: FromStr>(
    key: &'static str,
    given: &str,
    expected: &'static str,
) -> Result<T, FormError> {
    given.parse().map_err(|_no_number| FormError::Number { key, given: given.to_owned(), expected })
}

/// Refuses a name that is none of those that `forms` begin with.
pub(crate) fn unknown(given: &str, forms: &[&str]) -> FormError {
    FormError::Unknown { given: given.to_owned(), expected: forms.join(", ") }
}
