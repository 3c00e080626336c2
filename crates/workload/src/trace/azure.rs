use std::time::Duration;

use super::table::Columns;

pub(super) const COLUMNS: Columns = Columns {
    at: "TIMESTAMP",
    input: "ContextTokens",
    output: "GeneratedTokens",
    header: "TIMESTAMP,ContextTokens,GeneratedTokens",
    like: "a time like 2023-11-16 18:15:46.6805900",
    time: timestamp,
    failures: false,
};

/// `YYYY-MM-DD HH:MM:SS[.fraction]`, since some day before all traces.
fn timestamp(text: &str) -> Option<Duration> {
    let (date, clock) = text.split_once([' ', 'T'])?;
    let (year, month, day) = three(date, '-')?;
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, "0"));
    let (hour, minute, second) = three(clock, ':')?;
    let valid = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && hour < 24
        && minute < 60
        && second < 61
        && !fraction.is_empty()
        && fraction.len() <= 9
        && fraction.bytes().all(|byte| byte.is_ascii_digit());
    if !valid {
        return None;
    }
    let nanos: u32 = format!("{fraction:0<9}").parse().ok()?;
    let seconds = days(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second;
    Some(Duration::new(seconds, nanos))
}

fn three(text: &str, separator: char) -> Option<(u64, u64, u64)> {
    let mut parts = text.split(separator).map(|part| {
        let digits = part.bytes().all(|byte| byte.is_ascii_digit());
        part.parse::<u64>().ok().filter(|_| digits)
    });
    let three = (parts.next()??, parts.next()??, parts.next()??);
    parts.next().is_none().then_some(three)
}

/// Days since 0000-03-01: years begin in March, so that leap days come last.
fn days(year: u64, month: u64, day: u64) -> u64 {
    let year = year - u64::from(month <= 2);
    let month = (month + 9) % 12;
    year * 365 + year / 4 - year / 100 + year / 400 + (month * 153 + 2) / 5 + day - 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_run_on_over_months_and_leap_days() {
        let at = |text| timestamp(text).unwrap();
        let day = Duration::from_secs(86_400);
        assert_eq!(at("2024-03-01 00:00:00") - at("2024-02-28 00:00:00"), 2 * day);
        assert_eq!(at("2023-03-01 00:00:00") - at("2023-02-28 00:00:00"), day);
        assert_eq!(at("2024-01-01 00:00:00") - at("2023-12-31 23:59:59"), Duration::from_secs(1));
        assert_eq!(
            at("2023-11-16 18:15:46.6805901") - at("2023-11-16 18:15:46.68059"),
            Duration::from_nanos(100)
        );
        for bad in ["", "2023-11-16", "2023-13-16 00:00:00", "x-11-16 00:00:00", "2023-11-16 1:2"] {
            assert_eq!(timestamp(bad), None, "{bad:?}");
        }
    }
}
