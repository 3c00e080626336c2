//! Numbers as people read them: three figures, and a unit that cannot be torn off.

use std::time::{Duration, UNIX_EPOCH};

/// What a figure is a number of. The script knows them by name, to read values off a plot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Milliseconds,
    Seconds,
    Share,
    /// Requests or tokens, also a second.
    Number,
}

impl Unit {
    pub(super) fn name(self) -> &'static str {
        match self {
            Unit::Milliseconds => "ms",
            Unit::Seconds => "s",
            Unit::Share => "share",
            Unit::Number => "number",
        }
    }

    pub(super) fn show(self, value: f64) -> String {
        match self {
            Unit::Milliseconds => ms(value),
            Unit::Seconds => seconds(value),
            Unit::Share => percent(value),
            Unit::Number => figures(value),
        }
    }

    /// At an axis: no more digits than tell its ticks apart.
    pub(super) fn tick(self, value: f64) -> String {
        match self {
            Unit::Milliseconds if value >= 1e3 => format!("{}\u{a0}s", plain(value / 1e3)),
            Unit::Milliseconds if value == 0.0 => "0".to_owned(),
            Unit::Milliseconds => format!("{}\u{a0}ms", plain(value)),
            Unit::Seconds if value == 0.0 => "0".to_owned(),
            Unit::Seconds => format!("{}\u{a0}s", plain(value)),
            Unit::Share => format!("{}\u{a0}%", plain(100.0 * value)),
            Unit::Number => plain(value),
        }
    }
}

pub(super) fn ms(value: f64) -> String {
    if value.abs() >= 999.5 {
        return seconds(value / 1e3);
    }
    format!("{}\u{a0}ms", figures(value))
}

pub(super) fn seconds(value: f64) -> String {
    format!("{}\u{a0}s", figures(value))
}

/// Never all of them, or none, when it is not.
pub(super) fn percent(share: f64) -> String {
    let percent = 100.0 * share;
    let rounds_to_an_end = (percent < 0.05 && percent > 0.0) || (99.95..100.0).contains(&percent);
    match percent {
        _ if rounds_to_an_end => format!("{percent:.3}\u{a0}%"),
        0.0 | 100.0 => format!("{percent:.0}\u{a0}%"),
        _ => format!("{percent:.1}\u{a0}%"),
    }
}

/// Both ends, the unit once where it is the same.
pub(super) fn range(unit: Unit, (low, high): (f64, f64)) -> String {
    let (low, high) = (unit.show(low), unit.show(high));
    match (low.split_once('\u{a0}'), high.split_once('\u{a0}')) {
        (Some((number, one)), Some((_, other))) if one == other => format!("{number} – {high}"),
        _ => format!("{low} – {high}"),
    }
}

/// Three figures, and all that are before the point.
pub(super) fn figures(value: f64) -> String {
    let size = value.abs();
    match size {
        _ if !value.is_finite() => "–".to_owned(),
        0.0 => "0".to_owned(),
        _ if size < 9.995 => {
            let digits = if size < 0.0095 {
                4
            } else if size < 0.0995 {
                3
            } else {
                2
            };
            format!("{value:.digits$}")
        }
        _ if size < 99.95 => format!("{value:.1}"),
        _ => grouped(value),
    }
}

pub(super) fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            shown.push(',');
        }
        shown.push(digit);
    }
    shown
}

fn grouped(value: f64) -> String {
    let sign = if value < 0.0 { "−" } else { "" };
    format!("{sign}{}", count(value.abs().round() as u64))
}

/// Without digits that say nothing.
fn plain(value: f64) -> String {
    if value >= 1e3 {
        return grouped(value);
    }
    let shown = format!("{value:.4}");
    shown.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// In UTC.
pub(super) fn date(seconds: u64) -> String {
    /// The end of the year 9999.
    const LAST: u64 = 253_402_300_799;
    let time = UNIX_EPOCH + Duration::from_secs(seconds.min(LAST));
    httpdate::fmt_http_date(time).replace("GMT", "UTC")
}

/// A command as a shell takes it.
pub(super) fn command(words: &[String]) -> String {
    let quoted = words.iter().map(|word| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_=+./:,@%".contains(c);
        match !word.is_empty() && word.chars().all(is_plain) {
            true => word.clone(),
            false => format!("'{}'", word.replace('\'', r"'\''")),
        }
    });
    quoted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_figures() {
        for (value, expected) in [
            (0.0, "0"),
            (0.009, "0.0090"),
            (0.263, "0.26"),
            (9.994, "9.99"),
            (9.996, "10.0"),
            (283.391, "283"),
            (12_345.6, "12,346"),
            (f64::NAN, "–"),
        ] {
            assert_eq!(figures(value), expected);
        }
    }

    #[test]
    fn times_change_their_unit() {
        for (value, expected) in [
            (8.663, "8.66\u{a0}ms"),
            (999.4, "999\u{a0}ms"),
            (999.6, "1.00\u{a0}s"),
            (61e3, "61.0\u{a0}s"),
        ] {
            assert_eq!(ms(value), expected);
        }
        assert_eq!(range(Unit::Milliseconds, (274.4, 634.9)), "274 – 635\u{a0}ms");
        assert_eq!(range(Unit::Milliseconds, (274.4, 1634.9)), "274\u{a0}ms – 1.63\u{a0}s");
    }

    #[test]
    fn almost_all_is_not_all() {
        for (share, expected) in [
            (1.0, "100\u{a0}%"),
            (0.9999, "99.990\u{a0}%"),
            (0.5454, "54.5\u{a0}%"),
            (0.0, "0\u{a0}%"),
        ] {
            assert_eq!(percent(share), expected);
        }
    }

    #[test]
    fn a_command_can_be_pasted() {
        let words = ["baton-load", "--slo", "ttft=1s", "--chaos", "kill -9 'x'"].map(str::to_owned);
        assert_eq!(command(&words), r"baton-load --slo ttft=1s --chaos 'kill -9 '\''x'\'''");
    }

    #[test]
    fn dates_are_utc() {
        assert_eq!(date(1_795_386_254), "Sun, 22 Nov 2026 22:24:14 UTC");
        assert!(date(u64::MAX).contains("9999"));
    }
}
