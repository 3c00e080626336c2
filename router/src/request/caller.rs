//! Who asks, in which trace, and how fast it should be: what comes in headers, over HTTP and gRPC
//! alike.

use std::{fmt, time::Duration};

use axum::http::{HeaderMap, HeaderName};
use baton_policy::TenantId;
use baton_types::{RequestId, Slo};

use super::NamedClass;
use crate::{config::ClassesConfig, error::RequestError};

pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const TRACE: &str = "traceparent";
const SLO_CLASS: &str = "x-slo-class";
const TENANT: &str = "x-tenant-id";
const SLO_TTFT: &str = "x-slo-ttft-ms";
const SLO_TPOT: &str = "x-slo-tpot-ms";
/// A longer name, or one that isn't printable, is not taken.
const MAX_NAME: usize = 128;
/// An objective of more makes no sense.
const MAX_SLO_MS: f64 = 3_600_000.0;

/// Which request it is: to the router, and to the client if it gave it a name.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    pub(crate) id: RequestId,
    /// As in the header `x-request-id`; for logs only.
    pub(crate) tag: Option<String>,
    pub(crate) trace: Option<Trace>,
    pub(crate) slo: Result<Slo, RequestError>,
    /// Goes before what the request itself names.
    pub(crate) class: Option<NamedClass>,
    pub(crate) tenant: Result<TenantId, RequestError>,
    /// Whether it is a batch's line.
    pub(crate) is_line: bool,
}

/// The trace a request belongs to (W3C Trace Context, version 00).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Trace {
    id: u128,
    flags: u8,
}

impl Caller {
    pub(crate) fn new(id: RequestId, headers: &HeaderMap) -> Self {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        // What is no text is no number either, and refused like one.
        let given = |name: &str| Some(headers.get(name)?.to_str().unwrap_or("\u{fffd}"));
        Caller {
            id,
            tag: text(REQUEST_ID.as_str()).and_then(Caller::name),
            trace: text(TRACE).and_then(Trace::parse),
            slo: slo(given(SLO_TTFT), given(SLO_TPOT)),
            class: given(SLO_CLASS)
                .filter(|name| !name.is_empty())
                .map(|name| named(SLO_CLASS, name)),
            tenant: tenant(given(TENANT)),
            is_line: false,
        }
    }

    /// Whoever wrote a line of the batch `tag`.
    pub(crate) fn of_batch(id: RequestId, tag: String) -> Self {
        Caller {
            id,
            tag: Some(tag),
            trace: None,
            slo: Ok(Slo::default()),
            class: Some(named("service_tier", ClassesConfig::BATCH)),
            tenant: Ok(TenantId::default()),
            is_line: true,
        }
    }

    /// A client's name for a request, unless it is too long or can't be printed.
    pub(crate) fn name(text: &str) -> Option<String> {
        let is_printable = text.bytes().all(|byte| byte.is_ascii_graphic());
        ((1..=MAX_NAME).contains(&text.len()) && is_printable).then(|| text.to_owned())
    }
}

fn named(param: &'static str, name: &str) -> NamedClass {
    NamedClass { param, name: name.to_owned() }
}

/// Whoever misspells its name must not become somebody else.
fn tenant(given: Option<&str>) -> Result<TenantId, RequestError> {
    let Some(given) = given else { return Ok(TenantId::default()) };
    Caller::name(given).map(|name| TenantId(name.into())).ok_or_else(|| {
        let given: String = given.chars().take(32).collect();
        let message = format!(
            "Invalid header '{TENANT}': it must be 1 to {MAX_NAME} printable ASCII characters \
             without spaces, and is {given:?}."
        );
        RequestError::invalid(TENANT, "invalid_value", message)
    })
}

fn slo(ttft: Option<&str>, tpot: Option<&str>) -> Result<Slo, RequestError> {
    let read = |name: &'static str, text: Option<&str>| {
        let Some(text) = text else { return Ok(None) };
        match text.trim().parse::<f64>() {
            Ok(ms) if ms > 0.0 && ms <= MAX_SLO_MS => Ok(Some(Duration::from_secs_f64(ms / 1e3))),
            _ => {
                let given: String = text.chars().take(32).collect();
                let message = format!(
                    "Invalid header '{name}': it must be a number of milliseconds above 0 and up \
                     to {MAX_SLO_MS}, and is {given:?}."
                );
                Err(RequestError::invalid(name, "invalid_value", message))
            }
        }
    };
    Ok(Slo { ttft: read(SLO_TTFT, ttft)?, tpot: read(SLO_TPOT, tpot)? })
}

/// So many lower-case hexadecimal digits.
fn hex(part: Option<&str>, digits: usize) -> Option<&str> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    part.filter(|part| part.len() == digits && part.bytes().all(is_digit))
}

impl Trace {
    /// Whatever isn't a trace is none: the header never fails a request.
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('-');
        let version = hex(parts.next(), 2)?;
        let id = u128::from_str_radix(hex(parts.next(), 32)?, 16).ok()?;
        let parent = u64::from_str_radix(hex(parts.next(), 16)?, 16).ok()?;
        let flags = u8::from_str_radix(hex(parts.next(), 2)?, 16).ok()?;
        let is_whole = version != "00" || parts.next().is_none();
        (version != "ff" && id != 0 && parent != 0 && is_whole).then_some(Trace { id, flags })
    }

    /// The header for who is asked next, by the span `parent`.
    pub(crate) fn header(self, parent: u64) -> (&'static str, String) {
        (TRACE, format!("00-{:032x}-{:016x}-{:02x}", self.id, parent.max(1), self.flags))
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(pairs: &[(&'static str, &str)]) -> Caller {
        let headers = pairs.iter().map(|&(name, value)| {
            (HeaderName::from_static(name), value.parse().expect("a header's value"))
        });
        Caller::new(RequestId(1), &headers.collect())
    }

    #[test]
    fn objectives_are_milliseconds() {
        let slo = |ttft: &str, tpot: &str| {
            let caller = caller(&[(SLO_TTFT, ttft), (SLO_TPOT, tpot)]);
            caller.slo.map_err(|error| error.param().map(str::to_owned))
        };
        let expected = Slo {
            ttft: Some(Duration::from_millis(250)),
            tpot: Some(Duration::from_micros(12_500)),
        };
        assert_eq!(slo("250", "12.5"), Ok(expected));
        for bad in ["0", "-1", "nan", "inf", "", "1s", "3600001", "\u{b2}"] {
            assert_eq!(slo(bad, "1"), Err(Some(SLO_TTFT.to_owned())), "{bad:?}");
            assert_eq!(slo("1", bad), Err(Some(SLO_TPOT.to_owned())), "{bad:?}");
        }
        assert_eq!(caller(&[]).slo, Ok(Slo::default()));
    }

    #[test]
    fn a_tenant_is_named_or_nobody() {
        let tenant = |text: &str| caller(&[(TENANT, text)]).tenant.map(|tenant| tenant.0);
        assert_eq!(tenant("acme-1").as_deref(), Ok("acme-1"));
        assert_eq!(caller(&[]).tenant, Ok(TenantId::default()));
        for bad in ["", "a b", &"x".repeat(129), "\u{b2}"] {
            let error = tenant(bad).unwrap_err();
            assert_eq!(error.param(), Some(TENANT), "{bad:?}");
        }
    }

    #[test]
    fn a_trace_goes_on_under_another_parent() {
        let id = "4bf92f3577b34da6a3ce929d0e0e4736";
        let trace = |text: &str| caller(&[(TRACE, text)]).trace;
        let given = trace(&format!("00-{id}-00f067aa0ba902b7-01")).unwrap();
        assert_eq!(given.to_string(), id);
        assert_eq!(given.header(7).1, format!("00-{id}-0000000000000007-01"));
        let later = format!("01-{id}-00f067aa0ba902b7-00-more");
        assert!(trace(&later).is_some(), "a later version may have more");
        let zero = "0".repeat(32);
        for bad in [
            "",
            "00",
            &format!("00-{id}-00f067aa0ba902b7-01-more"),
            &format!("00-{zero}-00f067aa0ba902b7-01"),
            &format!("00-{id}-0000000000000000-01"),
            &format!("ff-{id}-00f067aa0ba902b7-01"),
            &format!("00-{}-00f067aa0ba902b7-01", id.to_uppercase()),
        ] {
            assert_eq!(trace(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_request_is_called_what_its_client_calls_it() {
        assert_eq!(caller(&[("x-request-id", "abc-1")]).tag.as_deref(), Some("abc-1"));
        assert_eq!(caller(&[("x-request-id", &"x".repeat(129))]).tag, None);
        assert_eq!(caller(&[("x-request-id", "a b")]).tag, None);
    }
}
