//! What an answer means to a batch: the end of its line, or another try.

use std::time::Duration;

use crate::http::Reply;

/// How often a line is tried whose attempts all failed on the nodes.
const MAX_FAILURES: u32 = 5;
/// When to try again, where the answer doesn't say so.
const PAUSE: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Done,
    Again { after: Duration },
}

/// Judges the answer to a line that has failed `failures` times before.
///
/// A full cluster and a model that has no nodes now are reasons to wait, until the batch itself
/// expires. A line that fails wherever it runs isn't: it would take nodes down for ever.
pub(super) fn judge(reply: &Reply, failures: u32) -> Verdict {
    let after = reply.retry_after.unwrap_or(PAUSE);
    match reply.status {
        404 | 429 => Verdict::Again { after },
        503 if failures + 1 < MAX_FAILURES => Verdict::Again { after },
        _ => Verdict::Done,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn only_what_time_may_change_is_tried_again() {
        let check = |status, failures, again: Option<u64>| {
            let retry_after = (status == 429).then_some(Duration::from_secs(7));
            let reply = Reply { status, retry_after, body: Value::Null };
            let expected = again.map_or(Verdict::Done, |after| Verdict::Again {
                after: Duration::from_secs(after),
            });
            assert_eq!(judge(&reply, failures), expected, "{status} after {failures}");
        };
        check(200, 0, None);
        check(400, 0, None);
        check(504, 0, None);
        check(429, 1000, Some(7));
        check(404, 1000, Some(1));
        check(503, 0, Some(1));
        check(503, 4, None);
    }
}
