use baton_fake_kubernetes::{FakeKubernetes, Fault};
use baton_registry::{Announced, Rates};
use serde_json::json;
use tokio::sync::watch;

use crate::{Client, LEASE, SERVICE, until};

fn rates(of: &[(&str, f64)]) -> Rates {
    of.iter().map(|&(model, rate)| (model.into(), rate)).collect()
}

async fn hears(router: &Announced, what: &[(&str, f64)]) {
    let expected = rates(what);
    let what = format!("it hears {expected:?}");
    until(&what, &router.fellows.elsewhere, |heard| *heard == expected).await;
}

fn says(router: &Announced, what: &[(&str, f64)]) {
    router.fellows.rates.send_replace(rates(what));
}

/// Waits until there is such a set of routers' leases.
async fn leases(api: &FakeKubernetes, expected: &[u64]) {
    let expected: Vec<String> = expected.iter().map(|id| format!("{SERVICE}-{id:016x}")).collect();
    let (sender, now) = watch::channel(Vec::new());
    let asking = async {
        loop {
            let names = api.objects("leases").into_iter().map(|(name, _)| name);
            sender.send_replace(names.filter(|name| !name.ends_with("leader")).collect::<Vec<_>>());
            tokio::time::sleep(LEASE / 100).await;
        }
    };
    tokio::select! {
        () = asking => {}
        _ = until("such leases", &now, |names| *names == expected) => {}
    }
}

#[tokio::test]
async fn routers_hear_what_comes_to_all_others() {
    let api = FakeKubernetes::start().unwrap();
    let client = Client::of(&api);
    let [a, b, c] = [1, 2, 3].map(|id| client.router(id));
    says(&a, &[("m", 2.0), ("n", 1.0)]);
    says(&b, &[("m", 0.5)]);
    hears(&c, &[("m", 2.5), ("n", 1.0)]).await;
    hears(&a, &[("m", 0.5)]).await;
    says(&a, &[("m", 4.0)]);
    hears(&c, &[("m", 4.5)]).await;
    // Who leaves is forgotten at once, and takes away what it had.
    a.leave().await;
    leases(&api, &[2, 3]).await;
    hears(&c, &[("m", 0.5)]).await;
    // Who dies counts until its lease is over, and is taken away after some by the leader.
    drop(b);
    hears(&c, &[]).await;
    leases(&api, &[3]).await;
}

#[tokio::test]
async fn rates_stay_while_the_api_server_is_away() {
    let api = FakeKubernetes::start().unwrap();
    let mut client = Client::of(&api);
    let [a, b] = [1, 2].map(|id| client.router(id));
    says(&a, &[("m", 2.0)]);
    hears(&b, &[("m", 2.0)]).await;
    for is_emptied in [false, true] {
        one_leads(&a, &b).await;
        client.door.stop();
        // That takes two thirds of a lease, and another one is more than words count for.
        for router in [&a, &b] {
            until("none leads", &router.fellows.leads, |&leads| !leads).await;
        }
        tokio::time::sleep(LEASE).await;
        assert_eq!(*b.fellows.elsewhere.borrow(), rates(&[("m", 2.0)]));
        if is_emptied {
            api.wipe();
        }
        says(&a, &[("m", 3.0)]);
        client.door.restart().unwrap();
        hears(&b, &[("m", 3.0)]).await;
        says(&a, &[("m", 2.0)]);
        hears(&b, &[("m", 2.0)]).await;
    }
}

async fn one_leads(a: &Announced, b: &Announced) {
    tokio::select! {
        _ = until("one leads", &a.fellows.leads, |&leads| leads) => {}
        _ = until("one leads", &b.fellows.leads, |&leads| leads) => {}
    }
}

#[tokio::test]
async fn what_others_write_into_leases_is_passed_over() {
    let api = FakeKubernetes::start().unwrap();
    let client = Client::of(&api);
    let lease = |name: &str, rates: &str| {
        json!({
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {
                "name": name,
                "labels": {"baton-routers-of": SERVICE},
                "annotations": {"baton-rates": rates}
            },
            "spec": {"leaseDurationSeconds": 3600}
        })
    };
    api.put("leases", lease("nonsense", "not JSON"));
    api.put("leases", lease("sense", "{\"m\": 1.5}"));
    api.put(
        "leases",
        json!({"metadata": {"name": "bare", "labels": {"baton-routers-of": SERVICE}}}),
    );
    let a = client.router(1);
    hears(&a, &[("m", 1.5)]).await;
    client.door.set_fault(Fault::Watches(500));
    api.end_watches();
    api.put("leases", lease("sense", "{\"m\": 2.5}"));
    hears(&a, &[("m", 2.5)]).await;
}
