//! `inference.GRPCInferenceService`, as clients of Triton and KServe speak it.

use std::collections::HashMap;

use baton_proto::{
    oip::{
        InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse,
        ModelMetadataRequest, ModelReadyRequest, ModelStreamInferResponse, ServerLiveRequest,
        ServerMetadataRequest, ServerReadyRequest,
        grpc_inference_service_client::GrpcInferenceServiceClient,
        infer_parameter::ParameterChoice,
        model_infer_request::{InferInputTensor, InferRequestedOutputTensor},
    },
    status::Refused,
};
use prost::bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming, transport::Channel};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::{
    cluster::{Cluster, PATIENCE, PROMPT, eventually},
    fake::{MODEL, Step, text},
};

async fn client(cluster: &Cluster) -> GrpcInferenceServiceClient<Channel> {
    GrpcInferenceServiceClient::connect(cluster.url.clone()).await.unwrap()
}

fn tensor(name: &str, datatype: &str, contents: InferTensorContents) -> InferInputTensor {
    InferInputTensor {
        name: name.into(),
        datatype: datatype.into(),
        shape: vec![1],
        contents: Some(contents),
        ..InferInputTensor::default()
    }
}

fn bytes(name: &str, text: &str) -> InferInputTensor {
    let bytes_contents = vec![Bytes::copy_from_slice(text.as_bytes())];
    tensor(name, "BYTES", InferTensorContents { bytes_contents, ..Default::default() })
}

fn flag(name: &str, value: bool) -> InferInputTensor {
    let bool_contents = vec![value];
    tensor(name, "BOOL", InferTensorContents { bool_contents, ..Default::default() })
}

fn number(value: i64) -> InferParameter {
    InferParameter { parameter_choice: Some(ParameterChoice::Int64Param(value)) }
}

/// [`PROMPT`] and eight tokens.
fn request(id: &str) -> ModelInferRequest {
    ModelInferRequest {
        model_name: MODEL.into(),
        id: id.into(),
        inputs: vec![bytes("text_input", PROMPT)],
        parameters: [("max_tokens".into(), number(8))].into(),
        ..ModelInferRequest::default()
    }
}

fn with(name: &str, value: ParameterChoice) -> ModelInferRequest {
    let mut request = request("");
    let parameter = InferParameter { parameter_choice: Some(value) };
    request.parameters.insert(name.into(), parameter);
    request
}

fn and(mut request: ModelInferRequest, input: InferInputTensor) -> ModelInferRequest {
    request.inputs.push(input);
    request
}

/// The raw contents of an output.
fn raw(response: &ModelInferResponse, name: &str) -> Bytes {
    let index = response.outputs.iter().position(|output| output.name == name).unwrap();
    response.raw_output_contents[index].clone()
}

/// The only element of a BYTES output.
fn said(response: &ModelInferResponse, name: &str) -> String {
    let raw = raw(response, name);
    let (length, text) = raw.split_first_chunk().unwrap();
    assert_eq!(u32::from_le_bytes(*length) as usize, text.len());
    String::from_utf8(text.to_vec()).unwrap()
}

fn parameter(response: &ModelInferResponse, name: &str) -> ParameterChoice {
    response.parameters[name].parameter_choice.clone().unwrap()
}

fn is_final(response: &ModelInferResponse) -> bool {
    parameter(response, "triton_final_response") == ParameterChoice::BoolParam(true)
}

/// A stream to which requests are sent one by one.
struct Talk {
    requests: mpsc::Sender<ModelInferRequest>,
    answers: Streaming<ModelStreamInferResponse>,
}

impl Talk {
    async fn begin(cluster: &Cluster) -> Self {
        let (requests, sent) = mpsc::channel(16);
        let stream = client(cluster).await.model_stream_infer(ReceiverStream::new(sent)).await;
        Talk { requests, answers: stream.unwrap().into_inner() }
    }

    async fn next(&mut self) -> (String, ModelInferResponse) {
        let answer = self.answers.message().await.unwrap().unwrap();
        (answer.error_message, answer.infer_response.unwrap())
    }

    /// What request `id` gets to its end; nothing else may come.
    async fn all(&mut self, id: &str) -> String {
        let mut text = String::new();
        loop {
            let (error, response) = self.next().await;
            assert_eq!((error.as_str(), response.id.as_str()), ("", id));
            text += &said(&response, "text_output");
            if is_final(&response) {
                return text;
            }
        }
    }
}

#[tokio::test]
async fn an_answer_comes_whole() {
    let cluster = Cluster::start(1, 1).await;
    let response = client(&cluster).await.model_infer(request("mine")).await.unwrap().into_inner();
    assert_eq!((response.id.as_str(), response.model_name.as_str()), ("mine", MODEL));
    assert_eq!(said(&response, "text_output"), text(PROMPT, 8));
    assert_eq!(said(&response, "finish_reason"), "length");
    let ids: Vec<u8> = text(PROMPT, 8).bytes().flat_map(|id| [id, 0, 0, 0]).collect();
    assert_eq!(raw(&response, "output_ids"), ids);
    assert_eq!(response.outputs[1].shape, [8]);
    for (name, count) in [("prompt_tokens", PROMPT.len() as i64), ("completion_tokens", 8)] {
        assert_eq!(parameter(&response, name), ParameterChoice::Int64Param(count));
    }
    let seed = cluster.prefill[0].shared.calls()[0].sampling.clone().unwrap().seed;
    assert_eq!(parameter(&response, "seed"), ParameterChoice::Uint64Param(seed));
}

#[tokio::test]
async fn prompts_come_as_text_ids_or_messages() {
    let cluster = Cluster::start(1, 1).await;
    let mut client = client(&cluster).await;
    let ids =
        InferInputTensor { shape: vec![3], ..tensor("input_ids", "INT32", Default::default()) };
    let mut as_ids = ModelInferRequest { inputs: vec![ids], ..request("") };
    as_ids.inputs[0].contents = None;
    as_ids.raw_input_contents = vec![Bytes::from_static(&[97, 0, 0, 0, 98, 0, 0, 0, 99, 0, 0, 0])];
    let messages = bytes("messages", r#"[{"role": "user", "content": "hi"}]"#);
    let as_messages = ModelInferRequest { inputs: vec![messages], ..request("") };
    let prefixed = and(request(""), flag("exclude_input_in_output", false));
    for (request, expected) in [
        (as_ids, text("abc", 8)),
        (as_messages, text("user: hi\nassistant: ", 8)),
        (prefixed, format!("{PROMPT}{}", text(PROMPT, 8))),
    ] {
        let response = client.model_infer(request).await.unwrap().into_inner();
        assert_eq!(said(&response, "text_output"), expected);
    }
}

#[tokio::test]
async fn parameters_reach_the_nodes_and_the_tensors_count() {
    let cluster = Cluster::start(1, 1).await;
    let sampling = bytes("sampling_parameters", r#"{"temperature": "0.5", "max_tokens": 3}"#);
    let mut asked = and(with("seed", ParameterChoice::Uint64Param(u64::MAX)), sampling);
    asked.parameters.insert("top_k".into(), number(5));
    let output = InferRequestedOutputTensor { name: "text_output".into(), ..Default::default() };
    asked.outputs = vec![output];
    let response = client(&cluster).await.model_infer(asked).await.unwrap().into_inner();
    assert_eq!((response.outputs.len(), said(&response, "text_output")), (1, text(PROMPT, 3)));
    let call = cluster.prefill[0].shared.calls().remove(0);
    let sampling = call.sampling.unwrap();
    assert_eq!((sampling.temperature, sampling.top_k, sampling.seed), (0.5, 5, u64::MAX));
}

#[tokio::test]
async fn a_stream_answers_in_parts_and_marks_the_last() {
    let cluster = Cluster::start(1, 1).await;
    let mut talk = Talk::begin(&cluster).await;
    for id in ["first", "second"] {
        talk.requests.send(request(id)).await.unwrap();
        assert_eq!(talk.all(id).await, text(PROMPT, 8));
    }
    talk.requests.send(and(request("whole"), flag("stream", false))).await.unwrap();
    let (_, whole) = talk.next().await;
    assert!(is_final(&whole));
    assert_eq!(said(&whole, "text_output"), text(PROMPT, 8));
    let Talk { requests, mut answers } = talk;
    drop(requests);
    assert!(answers.message().await.unwrap().is_none(), "the stream ends with its requests");
}

#[tokio::test]
async fn a_bad_request_costs_the_others_on_its_stream_nothing() {
    let cluster = Cluster::start(1, 1).await;
    cluster.decode[0].shared.script(vec![Step::Honest(Some(3)), Step::Hang]);
    let mut talk = Talk::begin(&cluster).await;
    talk.requests.send(request("stuck")).await.unwrap();
    let (_, begun) = talk.next().await;
    assert!(begun.id == "stuck" && !is_final(&begun));
    eventually("the nodes work on it", || cluster.decode[0].shared.open() == 1).await;
    // Ids of four bytes, in as few responses as the network liked.
    let mut ids = begun.raw_output_contents[1].len();
    while ids < 8 {
        ids += talk.next().await.1.raw_output_contents[1].len();
    }
    let other_model = ModelInferRequest { model_name: "other".into(), ..request("lost") };
    talk.requests.send(other_model).await.unwrap();
    let failed = loop {
        let (error, response) = talk.next().await;
        if response.id == "lost" {
            assert!(error.contains("`other`"), "{error}");
            break response;
        }
    };
    assert!(is_final(&failed) && failed.outputs.is_empty());
    let code = i64::from(i32::from(Code::NotFound));
    assert_eq!(parameter(&failed, "error_code"), ParameterChoice::Int64Param(code));
    let reason = ParameterChoice::StringParam("MODEL_NOT_FOUND".into());
    assert_eq!(parameter(&failed, "error_reason"), reason);
    talk.requests.send(request("fine")).await.unwrap();
    assert_eq!(talk.all("fine").await, text(PROMPT, 8));
    drop(talk);
    eventually("the stuck one is cancelled", || cluster.decode[0].shared.open() == 0).await;
}

#[tokio::test]
async fn refusals_have_google_details() {
    use ParameterChoice::{DoubleParam, Int64Param, StringParam};
    let cluster = Cluster::start(1, 1).await;
    let mut client = client(&cluster).await;
    let no_input = ModelInferRequest { inputs: Vec::new(), ..request("") };
    let long = ModelInferRequest { model_name: "x".repeat(70_000), ..request("") };
    let version = ModelInferRequest { model_version: "3".into(), ..request("") };
    let output = InferRequestedOutputTensor { name: "logits".into(), ..Default::default() };
    let output = ModelInferRequest { outputs: vec![output], ..request("") };
    let both = and(request(""), bytes("messages", "[]"));
    let ids =
        InferInputTensor { shape: vec![2], ..tensor("input_ids", "INT64", Default::default()) };
    let ids = ModelInferRequest { inputs: vec![ids], ..request("") };
    let empty = ModelInferRequest { inputs: vec![bytes("text_input", "")], ..request("") };
    let json = and(request(""), bytes("sampling_parameters", "{"));
    let key = format!("{{\"logit_bias\": {{\"{}\": 1}}}}", "x".repeat(70_000));
    let key = and(request(""), bytes("sampling_parameters", &key));
    let stream = and(request(""), flag("stream", true));
    let (invalid, tensor) = ("INVALID_REQUEST", "INVALID_TENSOR");
    let wrong = Code::InvalidArgument;
    for (request, code, reason, field) in [
        (no_input, wrong, tensor, "inputs"),
        (both, wrong, tensor, "inputs"),
        (ids, wrong, tensor, "input_ids"),
        (json, wrong, tensor, "sampling_parameters"),
        (empty, wrong, "EMPTY_PROMPT", "text_input"),
        (key, wrong, invalid, "logit_bias"),
        (stream, wrong, invalid, "stream"),
        (output, wrong, invalid, "outputs"),
        (long, Code::NotFound, "MODEL_NOT_FOUND", "model_name"),
        (version, Code::NotFound, "MODEL_NOT_FOUND", "model_version"),
        (with("max_tokens", Int64Param(600)), Code::OutOfRange, "CONTEXT_TOO_LONG", "text_input"),
        (with("max_tokens", Int64Param(0)), wrong, invalid, "max_tokens"),
        (with("temperature", DoubleParam(9.0)), wrong, "INVALID_SAMPLING", "temperature"),
        (with("temperature", StringParam("hot".into())), wrong, invalid, "temperature"),
        (with("top_p", DoubleParam(f64::NAN)), wrong, invalid, "parameters"),
        (with("n", Int64Param(2)), wrong, invalid, "n"),
        (with("logprobs", Int64Param(2)), wrong, invalid, "logprobs"),
    ] {
        let status = client.model_infer(request).await.unwrap_err();
        let refused = Refused::from(&status);
        assert_eq!((refused.code, refused.reason.as_str()), (code, reason), "{status:?}");
        assert_eq!(refused.field.as_deref(), Some(field), "{status:?}");
    }
    assert!(cluster.prefill[0].shared.calls().is_empty(), "none of them reached a node");
}

#[tokio::test]
async fn a_requests_own_timeout_ends_it() {
    let cluster = Cluster::start(1, 1).await;
    cluster.prefill[0].shared.script(vec![Step::Hang]);
    let mut talk = Talk::begin(&cluster).await;
    let timeout = with("timeout", ParameterChoice::Int64Param(150_000));
    talk.requests.send(timeout).await.unwrap();
    let (error, failed) = talk.next().await;
    assert!(error.contains("150ms"), "{error}");
    let reason = ParameterChoice::StringParam("DEADLINE_EXCEEDED".into());
    assert!(is_final(&failed) && parameter(&failed, "error_reason") == reason);
    eventually("the node's stream is dropped", || cluster.prefill[0].shared.open() == 0).await;
}

#[tokio::test]
async fn an_idle_stream_doesnt_keep_a_router_from_leaving() {
    let cluster = Cluster::start(1, 1).await;
    let mut talk = Talk::begin(&cluster).await;
    talk.requests.send(request("running")).await.unwrap();
    let (_, begun) = talk.next().await;
    assert!(!is_final(&begun));
    cluster.shutdown.cancel();
    assert!(text(PROMPT, 8).ends_with(&talk.all("running").await));
    assert!(talk.answers.message().await.unwrap().is_none());
    tokio::time::timeout(PATIENCE, cluster.serving).await.unwrap().unwrap().unwrap();
}

#[tokio::test]
async fn readiness_and_metadata_are_told() {
    let mut cluster = Cluster::start(1, 1).await;
    let mut client = client(&cluster).await;
    assert!(client.server_live(ServerLiveRequest {}).await.unwrap().into_inner().live);
    let mut ready = async |name: &str, version: &str| {
        let request = ModelReadyRequest { name: name.into(), version: version.into() };
        client.model_ready(request).await.unwrap().into_inner().ready
    };
    assert!(ready(MODEL, "").await && ready(MODEL, "1").await);
    assert!(!ready("other", "").await && !ready(MODEL, "2").await);
    let server = client.server_metadata(ServerMetadataRequest {}).await.unwrap().into_inner();
    assert_eq!(server.name, "baton");
    let ask = |name: &str| ModelMetadataRequest { name: name.into(), version: String::new() };
    let model = client.model_metadata(ask(MODEL)).await.unwrap().into_inner();
    let shapes: HashMap<_, _> =
        model.inputs.iter().map(|input| (input.name.as_str(), input.shape.as_slice())).collect();
    assert_eq!((shapes["text_input"], shapes["input_ids"]), (&[1][..], &[-1][..]));
    assert_eq!(client.model_metadata(ask("other")).await.unwrap_err().code(), Code::NotFound);

    let channel = Channel::from_shared(cluster.url.clone()).unwrap().connect().await.unwrap();
    let service = HealthCheckRequest { service: "inference.GRPCInferenceService".into() };
    let mut watch = HealthClient::new(channel).watch(service).await.unwrap().into_inner();
    let mut until = async |expected: ServingStatus| {
        while watch.message().await.unwrap().unwrap().status() != expected {}
    };
    until(ServingStatus::Serving).await;
    cluster.decode.clear();
    until(ServingStatus::NotServing).await;
    assert!(!client.server_ready(ServerReadyRequest {}).await.unwrap().into_inner().ready);
    let request = ModelReadyRequest { name: MODEL.into(), version: String::new() };
    assert!(!client.model_ready(request).await.unwrap().into_inner().ready);
}
