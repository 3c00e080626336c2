use std::time::Duration;

use super::table::Columns;

/// Of all releases: later ones have `Session ID` and `Elapsed time` among them.
pub(super) const COLUMNS: Columns = Columns {
    at: "Timestamp",
    input: "Request tokens",
    output: "Response tokens",
    header: "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
    like: "seconds, at least 0",
    time: seconds,
    failures: true,
};

fn seconds(text: &str) -> Option<Duration> {
    Duration::try_from_secs_f64(text.parse().ok()?).ok()
}
