//! Pairing only the best of each side is about as good as pairing everybody.

use std::time::Duration;

use baton_policy::{
    ClusterView, Decision, FitConfig, LatencyFit, Link, Placement, PolicyConfig, RequestView,
    decide,
};
use baton_types::{LatencyProfile, NodeLoad, Role, Slo, Time};
use rand_core::RngCore;

use crate::cluster::{Draws, hello, placed, request};

/// From 0 to 1.
fn share(draws: &mut Draws) -> f64 {
    f64::from(draws.next_u32()) / f64::from(u32::MAX)
}

/// A cluster of `nodes` of each role, each as fast and as busy as it happens to be, with some slow
/// links.
fn view(nodes: u32, draws: &mut Draws) -> ClusterView {
    let mut view = ClusterView::default();
    for (role, letter) in [(Role::Prefill, 'p'), (Role::Decode, 'd')] {
        for number in 0..nodes {
            let speed = 0.5 + share(draws);
            let profile = LatencyProfile::default();
            let profile = LatencyProfile {
                prefill_token_us: profile.prefill_token_us * speed,
                decode_us: profile.decode_us * speed,
                ..profile
            };
            let hello = hello(&format!("{letter}{number}"), role);
            view.join(&hello, LatencyFit::new(profile, FitConfig::default()));
            let running = draws.next_u32() % 40;
            let load = NodeLoad {
                running,
                waiting: draws.next_u32() % 4,
                queued_tokens: u64::from(draws.next_u32() % 3000),
                context_tokens: u64::from(running) * 300,
                free_blocks: 40 + draws.next_u32() % 60,
                ..NodeLoad::default()
            };
            view.observe(&hello.node, hello.generation, load);
        }
    }
    for _ in 0..nodes {
        let slow = Link { bytes_per_second: 1e6, ..Link::default() };
        view.decode[(draws.next_u32() % nodes) as usize].link = slow;
    }
    view
}

fn asked(draws: &mut Draws) -> RequestView {
    let ms = |ms: f64| Some(Duration::from_secs_f64(ms / 1e3));
    let slo = Slo { ttft: ms(10.0 + 60.0 * share(draws)), tpot: ms(5.0 + 5.0 * share(draws)) };
    RequestView { slo, ..request(50 + draws.next_u32() % 500, 100, 0) }
}

/// Expected attainment, less what others lose.
fn value(placement: &Placement) -> f64 {
    placement.predicted.attainment - placement.predicted.loss
}

#[test]
fn the_shortlist_is_as_good_as_everybody_in_ninety_nine_of_a_hundred_views() {
    let mut draws = Draws(7);
    let at_once = Duration::from_secs(3600);
    let short = PolicyConfig { queue_ahead: at_once, near_equal: 0.0, ..PolicyConfig::default() };
    let whole = PolicyConfig { shortlist: usize::MAX, ..short };
    let (views, mut worse) = (500, 0);
    for _ in 0..views {
        let (view, request) = (view(48, &mut draws), asked(&mut draws));
        let choose = |config| decide(config, &view, &request, Time::ZERO, &mut Draws(0));
        let (short, whole) = (choose(&short), choose(&whole));
        if let Decision::Queue(_) = whole {
            continue;
        }
        let (short, whole) = (value(&placed(short)), value(&placed(whole)));
        // The exhaustive choice itself takes what is 0.01 worse for being cheaper.
        worse += u32::from(short < whole - 0.01 * whole.abs().max(1.0));
    }
    assert!(worse * 100 <= views, "{worse} of {views} views");
}
