use serde_json::{Value, json};

use super::*;

fn slice(kind: &str, ports: Value, endpoints: Value) -> EndpointSlice {
    let slice =
        json!({"metadata": {}, "addressType": kind, "ports": ports, "endpoints": endpoints});
    serde_json::from_value(slice).expect("a slice")
}

fn control(port: u16) -> Value {
    json!([{"name": "http", "port": 8000}, {"name": "control", "port": port, "protocol": "TCP"}])
}

fn pod(name: &str, address: &str) -> Value {
    json!({"addresses": [address], "targetRef": {"kind": "Pod", "name": name, "uid": format!("uid-{name}")}})
}

fn check(slices: &[EndpointSlice], before: &[&str], expect: &[&str]) {
    let set = |addresses: &[&str]| addresses.iter().map(|&address| address.to_owned()).collect();
    let (before, expect): (Routers, Routers) = (set(before), set(expect));
    assert_eq!(addresses(slices, "control", &before), expect);
    let reversed = slices.iter().rev();
    assert_eq!(addresses(reversed, "control", &before), expect, "whatever comes first");
}

#[test]
fn several_slices_are_one_set_and_each_has_its_own_port() {
    let a = slice("IPv4", control(8001), json!([pod("a", "10.0.0.1"), pod("b", "10.0.0.2")]));
    let b = slice("IPv4", control(9001), json!([pod("c", "10.0.0.3")]));
    // It is in two slices while the cluster moves it from one to the other.
    let c = slice("IPv4", control(8001), json!([pod("b", "10.0.0.2")]));
    check(&[], &[], &[]);
    check(
        &[a, b, c],
        &[],
        &["http://10.0.0.1:8001", "http://10.0.0.2:8001", "http://10.0.0.3:9001"],
    );
}

#[test]
fn every_endpoint_counts_whatever_its_conditions() {
    let conditions = [
        Value::Null,
        json!({}),
        json!({"ready": true}),
        json!({"ready": false, "serving": false, "terminating": false}),
        json!({"ready": false, "serving": true, "terminating": true}),
        json!({"ready": false, "serving": false, "terminating": true}),
    ];
    for conditions in conditions {
        let mut endpoint = pod("a", "10.0.0.1");
        endpoint["conditions"] = conditions;
        check(&[slice("IPv4", control(1), json!([endpoint]))], &[], &["http://10.0.0.1:1"]);
    }
}

#[test]
fn a_port_has_a_name_a_number_and_tcp() {
    let endpoints = json!([pod("a", "10.0.0.1")]);
    for (ports, number) in [
        (Value::Null, None),
        (json!([]), None),
        (json!([{"name": "control"}]), None),
        (json!([{"name": "control", "port": null}]), None),
        (json!([{"port": 1}]), None),
        (json!([{"name": "", "port": 1}]), None),
        (json!([{"name": "control", "port": 1, "protocol": "UDP"}]), None),
        (json!([{"name": "control", "port": 1}]), Some(1)),
        (json!([{"name": "x", "port": 1}, {"name": "control", "port": 2}]), Some(2)),
    ] {
        let expect: Vec<_> = number.iter().map(|port| format!("http://10.0.0.1:{port}")).collect();
        let expect: Vec<_> = expect.iter().map(String::as_str).collect();
        check(&[slice("IPv4", ports, endpoints.clone())], &[], &expect);
    }
}

#[test]
fn addresses_are_what_their_type_says() {
    for (kind, address, expect) in [
        ("IPv4", "10.0.0.1", &["http://10.0.0.1:1"][..]),
        ("IPv6", "fd00::1", &["http://[fd00::1]:1"]),
        ("FQDN", "router-0.example", &["http://router-0.example:1"]),
        ("Telepathy", "10.0.0.1", &[]),
    ] {
        check(&[slice(kind, control(1), json!([pod("a", address)]))], &[], expect);
    }
    let fungible = json!([{"addresses": ["10.0.0.1", "10.0.0.2"]}, {"addresses": []}]);
    check(&[slice("IPv4", control(1), fungible)], &[], &["http://10.0.0.1:1"]);
}

#[test]
fn a_pod_with_two_addresses_is_one_router_and_stays_where_it_was_known() {
    let four = slice("IPv4", control(1), json!([pod("a", "10.0.0.1"), pod("b", "10.0.0.2")]));
    let six = slice("IPv6", control(1), json!([pod("a", "fd00::1"), pod("b", "fd00::2")]));
    let both = [four, six.clone()];
    check(&both, &[], &["http://10.0.0.1:1", "http://10.0.0.2:1"]);
    check(
        &both,
        &["http://[fd00::1]:1", "http://10.0.0.2:1"],
        &["http://[fd00::1]:1", "http://10.0.0.2:1"],
    );
    check(&[six], &["http://10.0.0.1:1"], &["http://[fd00::1]:1", "http://[fd00::2]:1"]);
}
