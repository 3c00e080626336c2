//! Classes and tenants, over HTTP and gRPC.

use std::time::Duration;

use baton_proto::v1::{
    Decision, ExplainRequest, GenerateRequest, Sampling, generate_request::Prompt,
    inference_client::InferenceClient, operations_client::OperationsClient,
};
use baton_router::{RouterConfig, RouterFlags};
use serde_json::json;
use tonic::Request;

use crate::{
    cluster::{Cluster, PROMPT, completion},
    fake::MODEL,
};

/// With the class `gold`, whose requests have a minute for the first token and a second a token.
async fn cluster() -> Cluster {
    let mut cluster = Cluster::alone(|config| {
        let set = ["classes.gold={priority=200, ttft=\"60s\", tpot=\"1s\"}"].map(str::to_owned);
        let flags = RouterFlags { set: set.to_vec(), ..RouterFlags::default() };
        let RouterConfig { classes, .. } = flags.load([]).unwrap();
        config.classes = classes;
    })
    .await;
    cluster.join(1, 1).await;
    cluster
}

async fn explain(cluster: &Cluster, request_id: String) -> Decision {
    let mut client = OperationsClient::connect(cluster.url.clone()).await.unwrap();
    let told = client.explain(ExplainRequest { request_id }).await.unwrap().into_inner();
    told.decisions[0].clone()
}

#[tokio::test]
async fn a_request_over_http_is_of_the_class_it_names() {
    let cluster = cluster().await;
    let (minute, second) = (Some(60_000_000), Some(1_000_000));
    for (tier, headers, class, tenant, objectives) in [
        (None, &[][..], "default", "", (None, None)),
        (Some("auto"), &[("x-tenant-id", "acme")][..], "default", "acme", (None, None)),
        (Some("gold"), &[][..], "gold", "", (minute, second)),
        (Some("gold"), &[("x-slo-tpot-ms", "50")][..], "gold", "", (minute, Some(50_000))),
        (Some("batch"), &[("x-slo-class", "gold")][..], "gold", "", (minute, second)),
        (Some("batch"), &[][..], "batch", "", (None, None)),
    ] {
        let body = completion(json!({ "service_tier": tier, "max_tokens": 3 }));
        let reply = cluster.post_with("/v1/completions", body.to_string(), headers).await;
        assert_eq!(reply.status, 200, "{tier:?}: {reply:?}");
        let id = reply.json()["id"].as_str().unwrap().to_owned();
        let told = explain(&cluster, id).await;
        assert_eq!((&told.class[..], &told.tenant[..]), (class, tenant), "{tier:?}");
        assert_eq!((told.ttft_objective_us, told.tpot_objective_us), objectives, "{tier:?}");
        let calls = cluster.prefill[0].shared.calls();
        let within = calls.last().unwrap().first_token_within_us.map(Duration::from_micros);
        if class == "gold" {
            let within = within.expect("the node is told when it is due");
            assert!(within > 30 * Duration::from_secs(1), "{within:?}");
        }
    }
    let metrics = cluster.get("/metrics").await.body;
    for line in [
        "baton_router_ttft_seconds_count{class=\"gold\"} 3",
        "baton_router_ttft_seconds_count{class=\"batch\"} 1",
        "baton_router_objectives_total{class=\"gold\",objective=\"ttft\",met=\"true\"} 3",
    ] {
        assert!(metrics.lines().any(|l| l == line), "{line} is missing from\n{metrics}");
    }
}

#[tokio::test]
async fn a_class_nobody_configured_is_refused_with_those_there_are() {
    let cluster = cluster().await;
    for (tier, header, param) in [
        (json!("flex"), None, "service_tier"),
        (json!(null), Some(("x-slo-class", "Gold")), "x-slo-class"),
        (json!(7), None, "service_tier"),
        (json!(null), Some(("x-tenant-id", "a b")), "x-tenant-id"),
    ] {
        let body = completion(json!({ "service_tier": tier }));
        let headers: Vec<_> = header.into_iter().collect();
        let reply = cluster.post_with("/v1/completions", body.to_string(), &headers).await;
        let error = &reply.json()["error"];
        assert_eq!((reply.status, &error["param"]), (400, &json!(param)), "{error}");
        let message = error["message"].as_str().unwrap();
        let names = tier == json!(7) || param == "x-tenant-id";
        assert!(names || message.contains("batch, default, gold"), "{message}");
    }
}

#[tokio::test]
async fn a_request_over_grpc_is_of_the_class_it_names() {
    let cluster = cluster().await;
    let mut client = InferenceClient::connect(cluster.url.clone()).await.unwrap();
    let request = GenerateRequest {
        model: MODEL.into(),
        prompt: Some(Prompt::Text(PROMPT.into())),
        sampling: Some(Sampling { max_tokens: Some(3), ..Sampling::default() }),
        class: "gold".into(),
        ..GenerateRequest::default()
    };
    let mut asked = Request::new(request.clone());
    asked.metadata_mut().insert("x-tenant-id", "acme".parse().unwrap());
    let response = client.generate(asked).await.unwrap();
    let id = response.metadata().get("x-request-id").unwrap().to_str().unwrap().to_owned();
    let mut stream = response.into_inner();
    while stream.message().await.unwrap().is_some() {}
    let told = explain(&cluster, id).await;
    assert_eq!((&told.class[..], &told.tenant[..]), ("gold", "acme"));
    let unknown = GenerateRequest { class: "silver".into(), ..request };
    let error = client.generate(unknown).await.unwrap_err();
    assert!(error.message().contains("batch, default, gold"), "{error}");
}
