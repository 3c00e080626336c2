//! The Open Inference Protocol against whole clusters: with Triton's own client, and with one that
//! does what no client should.

use std::{collections::BTreeMap, time::Duration};

use baton_proto::oip::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
    grpc_inference_service_client::GrpcInferenceServiceClient, infer_parameter::ParameterChoice,
    model_infer_request::InferInputTensor,
};
use baton_tests::{Ask, Cluster, Engine, Options, Reference, get, python, python_example};
use baton_types::{SamplingSpec, TokenId};
use prost::bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn tritons_python_client_works_and_so_does_the_documents_example() {
    let cluster = Cluster::start(&Options::new(Engine::Llama)).unwrap();
    let models = get(&cluster.path("/v1/models")).unwrap().json().unwrap();
    let model = models["data"][0]["id"].as_str().unwrap();
    python("triton_client.py", &[address(&cluster), model]);
    python_example("docs/grpc.md", address(&cluster));
    cluster.wait_whole(PATIENCE).unwrap();
}

#[test]
fn a_client_that_knows_nothing_but_reflection_works() {
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    python("reflection_client.py", &[address(&cluster)]);
}

fn address(cluster: &Cluster) -> &str {
    cluster.url().strip_prefix("http://").unwrap()
}

/// A request by its token ids, as an engine alone answers it, too.
fn ask(number: u64) -> Ask {
    Ask {
        prompt: (0..40).map(|i| TokenId(40 + (i * 7 + number as u32) % 50)).collect(),
        max_tokens: 30,
        sampling: SamplingSpec::seeded(1.0, number),
    }
}

fn wire(id: String, ask: &Ask) -> ModelInferRequest {
    let raw: Vec<u8> = ask.prompt.iter().flat_map(|token| token.0.to_le_bytes()).collect();
    let input = InferInputTensor {
        name: "input_ids".into(),
        datatype: "INT32".into(),
        shape: vec![ask.prompt.len() as i64],
        ..InferInputTensor::default()
    };
    let parameters = [
        ("max_tokens", ParameterChoice::Int64Param(ask.max_tokens.into())),
        ("temperature", ParameterChoice::DoubleParam(ask.sampling.temperature.into())),
        ("seed", ParameterChoice::Uint64Param(ask.sampling.seed)),
    ];
    let parameter = |choice| InferParameter { parameter_choice: Some(choice) };
    ModelInferRequest {
        model_name: "sim".into(),
        id,
        inputs: vec![input],
        raw_input_contents: vec![raw.into()],
        parameters: parameters.map(|(name, choice)| (name.into(), parameter(choice))).into(),
        ..ModelInferRequest::default()
    }
}

/// `output_ids`, the second output unless others were asked for.
fn ids(response: &ModelInferResponse) -> Vec<TokenId> {
    let (ids, []) = response.raw_output_contents[1].as_chunks() else { panic!("half a token") };
    ids.iter().map(|id| TokenId(u32::from_le_bytes(*id))).collect()
}

fn is_final(response: &ModelInferResponse) -> bool {
    let flag = &response.parameters["triton_final_response"].parameter_choice;
    *flag == Some(ParameterChoice::BoolParam(true))
}

/// What no client should send, one after the other for ever.
fn hostile() -> impl Iterator<Item = ModelInferRequest> {
    let good = wire("bad".into(), &ask(0));
    let change = move |number: usize| {
        let mut bad = good.clone();
        match number % 7 {
            0 => bad.raw_input_contents[0].truncate(3),
            1 => bad.inputs[0].shape = vec![i64::MAX, i64::MAX],
            2 => bad.raw_input_contents = vec![Bytes::from(vec![0xff; 160])],
            3 => bad.model_name = "\u{0}nobody\n".into(),
            4 => bad.inputs[0].datatype = "FP8".into(),
            5 => bad.inputs.extend(bad.inputs.clone()),
            _ => {
                bad.inputs[0].contents = Some(InferTensorContents {
                    fp64_contents: vec![f64::NAN],
                    ..InferTensorContents::default()
                })
            }
        }
        bad
    };
    (0..).map(change)
}

#[tokio::test]
async fn requests_of_one_stream_run_together_and_bad_ones_cost_only_themselves() {
    const GOOD: u64 = 24;
    let cluster = Cluster::start(&Options::new(Engine::Sim)).unwrap();
    let (requests, sent) = mpsc::channel(4);
    let mut client = GrpcInferenceServiceClient::connect(cluster.url().to_owned()).await.unwrap();
    let mut answers =
        client.model_stream_infer(ReceiverStream::new(sent)).await.unwrap().into_inner();
    let sending = async {
        for (number, bad) in (0..GOOD).zip(hostile()) {
            requests.send(bad).await.unwrap();
            requests.send(wire(number.to_string(), &ask(number))).await.unwrap();
        }
        drop(requests);
    };
    let reading = async {
        let (mut good, mut bad) = (BTreeMap::<String, Vec<TokenId>>::new(), 0);
        let mut ended = 0;
        while let Some(answer) = answers.message().await.unwrap() {
            let response = answer.infer_response.unwrap();
            match response.id.as_str() {
                "bad" => {
                    assert!(is_final(&response) && !answer.error_message.is_empty());
                    bad += 1;
                }
                id => {
                    assert_eq!(answer.error_message, "", "{id}");
                    good.entry(id.to_owned()).or_default().extend(ids(&response));
                    ended += u64::from(is_final(&response));
                }
            }
        }
        assert_eq!((bad, ended), (GOOD, GOOD));
        good
    };
    let ((), good) = tokio::join!(sending, reading);
    let mut reference = Reference::sim().unwrap();
    for number in 0..GOOD {
        let alone = reference.generate(&ask(number)).unwrap();
        assert_eq!(good[&number.to_string()], alone.tokens, "{number}");
    }
    cluster.wait_whole(PATIENCE).unwrap();
}

#[tokio::test]
async fn closing_the_stream_at_any_point_leaves_every_pool_whole() {
    let options = Options::new(Engine::Sim)
        .set("scheduler.chunk_tokens=32")
        .set("engine.profile.prefill_us=2000.0")
        .set("engine.profile.decode_us=2000.0");
    let cluster = Cluster::start(&options).unwrap();
    let long = |number: u64| {
        let prompt = ask(number).prompt.repeat(10);
        wire(number.to_string(), &Ask { prompt, max_tokens: 2000, ..ask(number) })
    };
    for stop_after in [0, 10, 40, 80, 200, 400] {
        let mut client =
            GrpcInferenceServiceClient::connect(cluster.url().to_owned()).await.unwrap();
        let running = async {
            let (requests, sent) = mpsc::channel(8);
            for number in 0..6 {
                requests.send(long(number)).await.unwrap();
            }
            let stream = client.model_stream_infer(ReceiverStream::new(sent)).await;
            let mut answers = stream.unwrap().into_inner();
            while answers.message().await.unwrap().is_some() {}
        };
        let ended = tokio::time::timeout(Duration::from_millis(stop_after), running).await;
        assert!(ended.is_err(), "the requests were too short to be cancelled");
    }
    cluster.wait_whole(PATIENCE).unwrap();
    let mut client = GrpcInferenceServiceClient::connect(cluster.url().to_owned()).await.unwrap();
    let response = client.model_infer(wire("after".into(), &ask(3))).await.unwrap().into_inner();
    assert_eq!(ids(&response), Reference::sim().unwrap().generate(&ask(3)).unwrap().tokens);
}
