use std::path::{Path, PathBuf};

use baton_fake_kubernetes::{FakeKubernetes, Fault};
use baton_registry::{Directory, KubernetesOptions, RegistryError, RegistryOptions, Routers};

use crate::{Client, LEASE, SERVICE, until};

fn set(addresses: &[&str]) -> Routers {
    addresses.iter().map(|address| format!("http://{address}")).collect()
}

fn put(api: &FakeKubernetes, slice: &str, addresses: &[&str]) {
    let addresses: Vec<String> = addresses.iter().map(|&address| address.to_owned()).collect();
    api.put_slice(slice, SERVICE, &addresses);
}

async fn told(directory: &Directory, addresses: &[&str]) {
    let expected = set(addresses);
    until(&format!("{expected:?}"), &directory.routers, |routers| *routers == expected).await;
}

/// Says a record line by line. What is known after each line; none: as before.
async fn replay(file: &str, expected: &[Option<&[&str]>]) {
    let api = FakeKubernetes::start().unwrap();
    let client = Client::of(&api);
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/recorded").join(file);
    api.replay(&file).unwrap();
    let directory = Directory::watch(client.options()).unwrap();
    for expected in expected {
        assert!(api.say_next(), "the record is shorter");
        if let Some(expected) = expected {
            told(&directory, expected).await;
        }
    }
    assert!(!api.say_next(), "the record is longer");
}

#[tokio::test]
async fn while_routers_are_replaced_one_by_one_each_is_there_until_it_ends() {
    let [a, b, c] = ["10.244.1.17:8001", "10.244.2.9:8001", "10.244.3.4:8001"];
    let d = "10.244.1.21:8001";
    let expected: [Option<&[&str]>; 11] = [
        Some(&[a]),
        // It isn't ready: it waits for nodes.
        Some(&[a, b]),
        None,
        Some(&[a, b, c]),
        // A bookmark; it terminates and serves; it terminates.
        None,
        None,
        None,
        Some(&[b, c]),
        // Gone is what was in between.
        None,
        Some(&[b, d]),
        Some(&[]),
    ];
    replay("rolling.jsonl", &expected).await;
}

#[tokio::test]
async fn a_router_with_addresses_of_two_families_is_one() {
    let [a6, b] = ["[fd00:10:244:1::11]:8001", "10.244.2.9:8001"];
    let expected: [Option<&[&str]>; 7] = [
        None,
        Some(&[a6]),
        // Its other address comes later, and it stays where nodes know it.
        None,
        Some(&[a6, b]),
        None,
        None,
        Some(&[b]),
    ];
    replay("two-families.jsonl", &expected).await;
}

#[tokio::test]
async fn routers_are_those_of_all_slices_of_the_service() {
    let api = FakeKubernetes::start().unwrap();
    let client = Client::of(&api);
    put(&api, "one", &["10.0.0.1:8001", "10.0.0.2:8001"]);
    api.put_slice("strange", "other", &["10.9.9.9:8001".to_owned()]);
    let directory = Directory::watch(client.options()).unwrap();
    told(&directory, &["10.0.0.1:8001", "10.0.0.2:8001"]).await;
    put(&api, "two", &["10.0.0.2:8001"]);
    put(&api, "three", &["10.0.0.3:9001"]);
    told(&directory, &["10.0.0.1:8001", "10.0.0.2:8001", "10.0.0.3:9001"]).await;
    api.delete("endpointslices", "one");
    told(&directory, &["10.0.0.2:8001", "10.0.0.3:9001"]).await;
    // An emptied list is believed, for the API server said it.
    api.delete("endpointslices", "two");
    api.delete("endpointslices", "three");
    told(&directory, &[]).await;
    assert_eq!(api.asked().lists, 1, "everything else came over one watch");
}

#[tokio::test]
async fn a_watch_that_is_closed_goes_on_where_it_was() {
    let api = FakeKubernetes::start().unwrap();
    let client = Client::of(&api);
    put(&api, "one", &["10.0.0.1:8001"]);
    let directory = Directory::watch(client.options()).unwrap();
    told(&directory, &["10.0.0.1:8001"]).await;
    api.wait("it watches", |asked| asked.watches == 1).await.unwrap();
    // It says something, so it isn't one that is closed as soon as it begins.
    put(&api, "two", &["10.0.0.2:8001"]);
    told(&directory, &["10.0.0.1:8001", "10.0.0.2:8001"]).await;
    api.end_watches();
    api.wait("it watches again", |asked| asked.watches == 2).await.unwrap();
    put(&api, "three", &["10.0.0.3:8001"]);
    told(&directory, &["10.0.0.1:8001", "10.0.0.2:8001", "10.0.0.3:8001"]).await;
    assert_eq!(api.asked().lists, 1);
}

/// By a mark it knows that it missed nothing, though nothing came of what it watches for.
#[tokio::test]
async fn history_that_is_gone_is_read_anew_and_a_mark_says_from_where() {
    for (is_marked, lists) in [(false, 2), (true, 1)] {
        let api = FakeKubernetes::start().unwrap();
        let client = Client::of(&api);
        put(&api, "one", &["10.0.0.1:8001"]);
        let directory = Directory::watch(client.options()).unwrap();
        api.wait("it watches", |asked| asked.watches == 1).await.unwrap();
        put(&api, "one", &["10.0.0.2:8001"]);
        told(&directory, &["10.0.0.2:8001"]).await;
        api.compact();
        if is_marked {
            api.bookmark("endpointslices");
            // What comes behind it tells that it has arrived.
            put(&api, "one", &["10.0.0.3:8001"]);
            told(&directory, &["10.0.0.3:8001"]).await;
        }
        api.end_watches();
        api.wait("it watches again", |asked| asked.watches >= 2).await.unwrap();
        put(&api, "one", &["10.0.0.4:8001"]);
        told(&directory, &["10.0.0.4:8001"]).await;
        assert_eq!(api.asked().lists, lists, "marked: {is_marked}");
    }
}

#[tokio::test]
async fn whatever_the_api_server_does_what_was_known_stays_until_it_says_otherwise() {
    for fault in [
        Fault::Status(500),
        Fault::Status(429),
        Fault::Status(410),
        Fault::Status(403),
        Fault::Hang,
    ] {
        let api = FakeKubernetes::start().unwrap();
        let client = Client::of(&api);
        put(&api, "one", &["10.0.0.1:8001"]);
        let directory = Directory::watch(client.options()).unwrap();
        told(&directory, &["10.0.0.1:8001"]).await;
        api.wait("it watches", |asked| asked.watches == 1).await.unwrap();
        client.door.set_fault(fault);
        if fault != Fault::Hang {
            api.end_watches();
        }
        put(&api, "one", &["10.0.0.2:8001"]);
        api.wait("it asks again and again", |asked| asked.failed >= 2).await.unwrap();
        assert_eq!(*directory.routers.borrow(), set(&["10.0.0.1:8001"]), "{fault:?}");
        client.door.set_fault(Fault::None);
        told(&directory, &["10.0.0.2:8001"]).await;
    }
}

/// Where only watches fail, lists tell all the same.
#[tokio::test]
async fn a_watch_refused_by_an_http_status_doesnt_keep_it_from_listing() {
    let api = FakeKubernetes::start().unwrap();
    let client = Client::of(&api);
    client.door.set_fault(Fault::Watches(410));
    put(&api, "one", &["10.0.0.1:8001"]);
    let directory = Directory::watch(client.options()).unwrap();
    told(&directory, &["10.0.0.1:8001"]).await;
    put(&api, "one", &["10.0.0.2:8001"]);
    told(&directory, &["10.0.0.2:8001"]).await;
}

#[tokio::test]
async fn an_api_server_may_be_restarted_or_lose_its_data() {
    let api = FakeKubernetes::start().unwrap();
    let mut client = Client::of(&api);
    // It may come after its client.
    client.door.stop();
    let directory = Directory::watch(client.options()).unwrap();
    put(&api, "one", &["10.0.0.1:8001"]);
    client.door.restart().unwrap();
    told(&directory, &["10.0.0.1:8001"]).await;

    client.door.stop();
    put(&api, "one", &["10.0.0.2:8001"]);
    assert_eq!(*directory.routers.borrow(), set(&["10.0.0.1:8001"]));
    client.door.restart().unwrap();
    told(&directory, &["10.0.0.2:8001"]).await;

    api.wipe();
    told(&directory, &[]).await;
    put(&api, "one", &["10.0.0.3:8001"]);
    told(&directory, &["10.0.0.3:8001"]).await;
}

/// A token that isn't right any more is read anew once it is.
#[tokio::test]
async fn an_api_server_may_want_tls_and_a_token() {
    let api = FakeKubernetes::start().unwrap();
    let client = Client::secured(&api);
    put(&api, "one", &["10.0.0.1:8001"]);
    let directory = Directory::watch(client.options()).unwrap();
    told(&directory, &["10.0.0.1:8001"]).await;
    let router = client.router(1);
    until("it leads", &router.fellows.leads, |&leads| leads).await;

    let (token, stranger) = (client.folder.path().join("token"), Client::secured(&api));
    std::fs::write(&token, "let me in").unwrap();
    let refused = Directory::watch(client.options()).unwrap();
    api.wait("somebody is refused", |asked| asked.failed > 0).await.unwrap();
    std::fs::copy(stranger.folder.path().join("token"), &token).unwrap();
    told(&refused, &["10.0.0.1:8001"]).await;
}

#[test]
fn who_can_reach_no_cluster_is_told_so_at_once() {
    let options = RegistryOptions::Kubernetes(KubernetesOptions {
        service: SERVICE.into(),
        namespace: None,
        port: "control".into(),
        lease: LEASE,
        kubeconfig: Some(PathBuf::from("/nowhere/kubeconfig")),
    });
    let error = Directory::watch(options).unwrap_err();
    assert!(matches!(error, RegistryError::NoCluster { .. }), "{error}");
    assert!(error.to_string().contains("/nowhere/kubeconfig"), "{error}");
}
