//! Where running sequences go, and what counts meanwhile.

use std::time::Duration;

use baton_policy::{PolicyConfig, RequestView, Shortage, destination};
use baton_types::{Role, Slo, Time};

use crate::cluster::{ask, cluster, placed, request};

/// One that decodes on `d1` and leaves it.
fn leaving(tokens: u32) -> RequestView {
    RequestView { exclude: vec!["d1".into()], has_begun: true, ..request(tokens, 50, 0) }
}

#[test]
fn it_goes_where_fewest_are_and_counts_on_both_sides_until_it_is_there() {
    let mut view = cluster(&["p1", "d1", "d2", "d3"]);
    let config = PolicyConfig::default();
    let group = view.decode[0].group.clone();
    let go = |view: &baton_policy::ClusterView, wanted: Option<&str>| {
        let wanted = wanted.map(Into::into);
        destination(&config, view, &leaving(100), &group, wanted.as_ref(), Time::ZERO)
    };
    // Two on d3 already.
    for first in [1000, 2000] {
        let others = ["d1", "d2"].map(Into::into).to_vec();
        let request = RequestView { exclude: others, ..request(100, 50, first) };
        let placement = placed(ask(&view, &request, 1));
        view.reserve(&request, &placement, Time::ZERO);
    }
    let own = RequestView { exclude: vec!["d2".into(), "d3".into()], ..request(100, 50, 0) };
    let placement = placed(ask(&view, &own, 1));
    let from = view.reserve(&own, &placement, Time::ZERO);
    view.first_token(from, Time::ZERO);

    let best = go(&view, None).unwrap();
    assert_eq!(best.path.decode().unwrap().node, "d2".into());
    assert_eq!(best.reasons.candidates, 2);
    assert_eq!(go(&view, Some("d3")).unwrap().path.decode().unwrap().node, "d3".into());
    assert_eq!(go(&view, Some("d9")), Err(Shortage::Nodes { role: Role::Decode }));
    assert_eq!(go(&view, Some("d1")), Err(Shortage::Nodes { role: Role::Decode }));

    let to = view.reserve_move(from, &leaving(100), &best, Time::ZERO);
    let sequences = |view: &baton_policy::ClusterView| {
        view.decode.iter().map(|node| node.reserved.sequences).collect::<Vec<_>>()
    };
    assert_eq!(sequences(&view), [1, 1, 2]);
    view.moved(from, to);
    assert_eq!(sequences(&view), [1, 1, 2], "its node hasn't given it up yet");
    view.release(from);
    assert_eq!(sequences(&view), [0, 1, 2]);
    view.finished(to, 50, Time::ZERO + Duration::from_secs(1));
    assert_eq!(sequences(&view), [0, 0, 2]);
}

#[test]
fn it_stays_where_nobody_has_room_for_it() {
    let mut view = cluster(&["p1", "d1", "d2"]);
    let group = view.decode[0].group.clone();
    let config = PolicyConfig::default();
    let others = RequestView { exclude: vec!["d1".into()], ..request(900, 90, 1000) };
    let placement = placed(ask(&view, &others, 1));
    view.reserve(&others, &placement, Time::ZERO);
    let full = destination(&config, &view, &leaving(800), &group, None, Time::ZERO).unwrap_err();
    assert!(matches!(full, Shortage::DecodeBlocks { .. }), "{full:?}");
    // A drained node takes nobody, room or not.
    view.set_draining(&"d2".into(), Role::Decode, true);
    let small = RequestView { slo: Slo::default(), ..leaving(10) };
    let nobody = destination(&config, &view, &small, &group, None, Time::ZERO).unwrap_err();
    assert_eq!(nobody, Shortage::Nodes { role: Role::Decode });
}
