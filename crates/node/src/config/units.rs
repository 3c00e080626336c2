//! Quantities as people write them: `"250ms"`, `"512MiB"`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time in configuration: a whole number and one of `us`, `ms`, `s`, `m`, `h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

/// A number of bytes in configuration: a whole number, bare or with `KiB`, `MiB`, `GiB`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{given:?} is not {what}")]
pub struct UnitError {
    given: String,
    what: &'static str,
}

const SPANS: [(&str, u64); 5] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000)];
const SIZES: [(&str, u64); 5] =
    [("", 1), ("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30)];

/// `number unit` in the smallest unit of `units`, or nothing when it is malformed or too large.
fn parse(given: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = given.find(|c: char| !c.is_ascii_digit()).unwrap_or(given.len());
    let (number, unit) = given.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

/// The largest unit that says `amount` in a whole number.
fn print(amount: u64, units: &[(&str, u64)]) -> String {
    let (name, factor) = units
        .iter()
        .rev()
        .find(|(_, factor)| amount != 0 && amount.is_multiple_of(*factor))
        .unwrap_or(&units[0]);
    format!("{}{name}", amount / factor)
}

impl Span {
    pub const fn from_millis(millis: u64) -> Self {
        Span(Duration::from_millis(millis))
    }

    pub const fn from_secs(secs: u64) -> Self {
        Span(Duration::from_secs(secs))
    }
}

impl FromStr for Span {
    type Err = UnitError;

    fn from_str(given: &str) -> Result<Self, UnitError> {
        let micros = parse(given, &SPANS).ok_or_else(|| UnitError {
            given: given.to_owned(),
            what: "a length of time such as \"250ms\", \"30s\" or \"5m\"",
        })?;
        Ok(Span(Duration::from_micros(micros)))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(u64::try_from(self.0.as_micros()).unwrap_or(u64::MAX), &SPANS))
    }
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(given: &str) -> Result<Self, UnitError> {
        parse(given, &SIZES).map(ByteSize).ok_or_else(|| UnitError {
            given: given.to_owned(),
            what: "a size such as \"512MiB\" or \"1GiB\"",
        })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&print(self.0, &SIZES))
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl Serialize for ByteSize {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

struct Text<T>(&'static str, std::marker::PhantomData<T>);

impl<T: FromStr<Err = UnitError> + FromNumber> de::Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }

    fn visit_str<E: de::Error>(self, given: &str) -> Result<T, E> {
        given.parse().map_err(E::custom)
    }

    fn visit_u64<E: de::Error>(self, given: u64) -> Result<T, E> {
        T::from_number(given)
            .ok_or_else(|| E::invalid_value(de::Unexpected::Unsigned(given), &self))
    }

    fn visit_i64<E: de::Error>(self, given: i64) -> Result<T, E> {
        u64::try_from(given)
            .ok()
            .and_then(T::from_number)
            .ok_or_else(|| E::invalid_value(de::Unexpected::Signed(given), &self))
    }
}

/// What a bare number means, if anything.
trait FromNumber: Sized {
    fn from_number(number: u64) -> Option<Self>;
}

impl FromNumber for Span {
    fn from_number(number: u64) -> Option<Self> {
        (number == 0).then_some(Span(Duration::ZERO))
    }
}

impl FromNumber for ByteSize {
    fn from_number(number: u64) -> Option<Self> {
        Some(ByteSize(number))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a length of time with its unit, such as \"250ms\" or \"30s\"";
        deserializer.deserialize_any(Text(expected, std::marker::PhantomData))
    }
}

impl<'de> Deserialize<'de> for ByteSize {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expected = "a size such as \"512MiB\"";
        deserializer.deserialize_any(Text(expected, std::marker::PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_read_as_they_are_printed() {
        for text in ["250ms", "30s", "5m", "2h", "7us", "0us"] {
            assert_eq!(text.parse::<Span>().unwrap().to_string(), text);
        }
        assert_eq!("90s".parse::<Span>(), Ok(Span::from_secs(90)));
        for text in ["1GiB", "512MiB", "3KiB", "17B"] {
            assert_eq!(text.parse::<ByteSize>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn quantities_without_a_meaning_are_refused() {
        for bad in ["", "s", "-1s", "1.5s", "1 day", "99999999999999999h"] {
            assert!(bad.parse::<Span>().is_err(), "{bad:?}");
        }
        for bad in ["", "1GB", "GiB", "-3"] {
            assert!(bad.parse::<ByteSize>().is_err(), "{bad:?}");
        }
    }
}
