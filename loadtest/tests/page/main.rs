//! The report as a page: what is in it, and what a browser makes of it.

mod browser;
mod reports;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use baton_load::report::{Report, html::page};
use serde::Deserialize;
use serde_json::Value;

use crate::browser::Browser;

const PROBE: &str = include_str!("probe.js");
/// Widths of a desktop, of a phone, and of paper.
const DESKTOP: u32 = 1280;
const PHONE: u32 = 390;
const PAPER: u32 = 700;

#[derive(Debug, Deserialize)]
struct Seen {
    plots: Vec<Plot>,
    bars: Vec<Bar>,
    /// Tables that are wider than their room.
    clipped: Vec<String>,
    overflow: i64,
    /// What makes it so.
    outside: Vec<String>,
    scripts: usize,
    buttons: usize,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Plot {
    id: String,
    width: f64,
    height: f64,
    shapes: usize,
    lines: usize,
    readout: usize,
    is_named: bool,
    collisions: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Bar {
    width: f64,
    parts: usize,
}

#[test]
fn the_page_draws_in_a_browser() {
    let folder = folder("page");
    let mut browser = Browser::start(&folder.join("profile"));
    let filled = written(&folder, "filled", &reports::filled());
    let plots = [
        "attainment-0",
        "goodput-0",
        "attainment-1",
        "goodput-1",
        "cdf-ttft",
        "cdf-tpot",
        "cdf-itl",
        "cdf-e2e",
        "over-requests",
        "over-unanswered",
        "over-ttft",
        "over-tpot",
        "over-tokens",
        "over-in-flight",
    ];
    let empty = written(&folder, "empty", &reports::empty());
    for (file, plots, bars) in [(&filled, &plots[..], 28), (&empty, &[], 0)] {
        browser.open(file);
        for (width, media, scheme) in [
            (DESKTOP, "screen", "light"),
            (DESKTOP, "screen", "dark"),
            (PHONE, "screen", "light"),
            (PAPER, "print", "light"),
        ] {
            browser.look(width, media, scheme);
            let seen = browser.evaluate(PROBE);
            let seen: Seen =
                serde_json::from_str(seen.as_str().expect("JSON")).expect("what was seen");
            if width != PHONE {
                assert_eq!(seen.clipped, [""; 0], "{width} {media}");
            }
            check(&seen, plots, bars);
        }
        assert!(browser.complaints().is_empty(), "{:#?}", browser.complaints());
        let requests: Vec<_> =
            browser.requests().into_iter().filter(|url| !url.starts_with("data:")).collect();
        assert_eq!(requests, [format!("file://{}", file.display())]);
    }
}

fn check(seen: &Seen, plots: &[&str], bars: usize) {
    let ids: Vec<_> = seen.plots.iter().map(|plot| plot.id.as_str()).collect();
    assert_eq!(ids, plots);
    for plot in &seen.plots {
        assert!(plot.width > 200.0 && plot.height > 100.0, "{plot:?}");
        assert!(plot.shapes > 0 && plot.lines > 0 && plot.is_named, "{plot:?}");
        assert_eq!(plot.readout, plot.lines, "{plot:?}");
        assert!(plot.collisions.is_empty(), "{plot:?}");
    }
    assert_eq!(seen.bars.len(), bars);
    assert!(seen.bars.iter().all(|bar| bar.width > 40.0 && bar.parts > 0), "{:?}", seen.bars);
    assert_eq!((seen.overflow, seen.outside.as_slice()), (0, &[][..]));
    assert_eq!(seen.scripts, 1);
    assert_eq!(seen.buttons > 0, !plots.is_empty());
}

#[test]
fn nothing_from_outside_is_markup() {
    const HOSTILE: &str =
        "</style></title>'\"><script>alert(1)</script>&amp;<img src=x onerror=alert(1)>";
    let mut value = serde_json::to_value(reports::filled()).unwrap();
    let replaced = everywhere(&mut value, HOSTILE);
    assert!(replaced > 100, "{replaced} strings");
    let page = page(&serde_json::from_value(value).unwrap());
    assert_eq!(page.matches("<script>").count(), 1);
    assert_eq!(page.matches("</style>").count(), 1);
    assert_eq!(page.matches("</title>'").count(), 0);
    assert!(!page.contains("<img") && page.contains("&lt;img src=x"));
}

/// Every string, and every key that comes from outside, with its number so that keys stay apart.
fn everywhere(value: &mut Value, text: &str) -> usize {
    match value {
        Value::String(string) => {
            text.clone_into(string);
            1
        }
        Value::Array(all) => all.iter_mut().map(|value| everywhere(value, text)).sum(),
        Value::Object(fields) => {
            let mut replaced = 0;
            for (name, value) in fields.iter_mut() {
                replaced += everywhere(value, text);
                if ["refused", "failed", "examples", "tokens"].contains(&name.as_str())
                    && value.is_object()
                {
                    let inner = value.as_object_mut().map(std::mem::take).unwrap_or_default();
                    let renamed = inner.into_iter().enumerate();
                    let renamed =
                        renamed.map(|(place, (_, value))| (format!("{text}{place}"), value));
                    *value = Value::Object(renamed.collect());
                }
            }
            replaced
        }
        _ => 0,
    }
}

#[test]
fn everything_is_told() {
    let page = page(&reports::filled());
    for told in [
        "Load test of candidate and current",
        "It was stopped before its end",
        "the client may be the bottleneck",
        "Requests did not arrive as claimed",
        "13 of 1,136 answers lack tokens",
        "2 of 3 checks missed",
        "with 95 % confidence at both ends",
        "RTNETLINK answers: Operation not permitted",
        "request 530.1: differs at 12",
        "connection refused (os error 111)",
        "Sun, 22 Nov 2026 22:24:14 UTC",
        "'chat:ttft=300ms,tpot=20ms'",
    ] {
        let told = told.replace('\'', "");
        assert!(page.contains(&told), "{told}");
    }
    let ids: Vec<_> =
        page.split(" id=\"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "{ids:?}");
}

#[test]
fn a_page_is_complete_in_itself() {
    for report in [reports::filled(), reports::empty()] {
        let page = page(&report);
        assert!(page.contains("default-src 'none'"));
        for outside in ["https://", "http://", "@import", " src=", "url(\""] {
            let ours =
                page.replace("http://www.w3.org/2000/svg", "").replace("http://127.0.0.1", "");
            assert!(!ours.contains(outside), "{outside}");
        }
    }
}

fn written(folder: &Path, name: &str, report: &Report) -> PathBuf {
    let path = folder.join(format!("{name}.html"));
    fs::write(&path, page(report)).expect("the folder can be written to");
    path
}

/// Empty, and left with the pages in it: whoever wants to see them finds them there.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).expect("a folder");
    folder
}
