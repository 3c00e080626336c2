//! Names of files and batches. They are numbers, so that whatever a client sends can't be a path.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Later ones are greater.
macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub(crate) struct $name(pub(super) u128);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{:032x}"), self.0)
            }
        }

        impl FromStr for $name {
            type Err = NoId;

            fn from_str(text: &str) -> Result<Self, NoId> {
                text.strip_prefix($prefix).and_then(digits).map($name).ok_or(NoId)
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

id! {
    /// `file-` and 32 hexadecimal digits.
    FileId, "file-"
}
id! {
    /// `batch_` and 32 hexadecimal digits.
    BatchId, "batch_"
}

/// Not a name that was ever given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is its prefix and 32 hexadecimal digits")]
pub(crate) struct NoId;

fn digits(text: &str) -> Option<u128> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    let is_whole = text.len() == 32 && text.bytes().all(is_digit);
    is_whole.then(|| u128::from_str_radix(text, 16).ok()).flatten()
}

/// Makes names in the order of time: 64 bits of it in microseconds, then as many of chance.
#[derive(Debug, Default)]
pub(super) struct Numbers {
    last: u64,
}

impl Numbers {
    /// Later ones are greater than `number`, too.
    pub(super) fn known(&mut self, number: u128) {
        self.last = self.last.max((number >> 64) as u64);
    }

    pub(super) fn next(&mut self, now_us: u64, chance: u64) -> u128 {
        self.last = now_us.max(self.last.saturating_add(1));
        u128::from(self.last) << 64 | u128::from(chance)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_printed_is_read() {
        let id = FileId(0xab << 64);
        assert_eq!(id.to_string(), format!("file-{:032x}", 0xab_u128 << 64));
        assert_eq!(id.to_string().parse(), Ok(id));
        let long = "a".repeat(33);
        for bad in [
            "",
            "file-",
            "file-../../etc/passwd",
            "file-+0000000000000000000000000000001",
            "file-AB000000000000000000000000000000",
            "batch_00000000000000000000000000000001",
            &format!("file-{long}"),
            "file-0000000000000000000000000000000\0",
        ] {
            assert_eq!(bad.parse::<FileId>(), Err(NoId), "{bad:?}");
        }
    }

    #[test]
    fn names_rise_even_when_the_clock_falls_back() {
        let mut numbers = Numbers::default();
        let mut last = numbers.next(1000, u64::MAX);
        numbers.known(7000 << 64);
        for now in [1000, 6000, 6000, 9000, 2] {
            let next = numbers.next(now, 0);
            assert!(next > last && next > 7000 << 64, "{next:x}");
            last = next;
        }
    }
}
