"""Calls a cluster with nothing but what reflection tells, as grpcurl does.

Usage: reflection_client.py 127.0.0.1:8000
"""

import sys

import grpc
from google.protobuf import json_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

channel = grpc.insecure_channel(sys.argv[1])
database = ProtoReflectionDescriptorDatabase(channel)
pool = DescriptorPool(database)

services = set(database.get_services())
known = {
    "baton.v1.Inference",
    "baton.v1.Operations",
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
    "inference.GRPCInferenceService",
}
assert services == known, services
for service in services:
    for method in pool.FindServiceByName(service).methods:
        assert method.input_type.file and method.output_type.file, method.full_name


def message(name):
    return GetMessageClass(pool.FindMessageTypeByName(name))


def call(service, name, request):
    method = pool.FindServiceByName(service).FindMethodByName(name)
    answer = GetMessageClass(method.output_type)
    parsed = json_format.ParseDict(request, GetMessageClass(method.input_type)(), descriptor_pool=pool)
    make = channel.unary_stream if method.server_streaming else channel.unary_unary
    stub = make(
        f"/{service}/{name}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=answer.FromString,
    )
    return stub(parsed, timeout=60)


assert call("grpc.health.v1.Health", "Check", {"service": "inference.GRPCInferenceService"}).status == 1
model = call("baton.v1.Inference", "ListModels", {}).models[0].id
assert call("inference.GRPCInferenceService", "ModelReady", {"name": model}).ready
request = {
    "modelName": model,
    "parameters": {"max_tokens": {"int64Param": "4"}},
    "inputs": [
        {"name": "input_ids", "datatype": "INT32", "shape": ["2"], "contents": {"intContents": [40, 41]}}
    ],
}
answer = call("inference.GRPCInferenceService", "ModelInfer", request)
assert [output.name for output in answer.outputs] == ["text_output", "output_ids", "finish_reason"]
prompt = {"model": model, "tokenIds": {"ids": [40, 41]}, "sampling": {"maxTokens": 4}}
assert len(list(call("baton.v1.Inference", "Generate", prompt))) > 2

# The details of a refusal can be read, too.
try:
    call("inference.GRPCInferenceService", "ModelInfer", request | {"modelVersion": "7"})
except grpc.RpcError as error:
    assert error.code() == grpc.StatusCode.NOT_FOUND, error
    trailers = dict(error.trailing_metadata())
    status = message("google.rpc.Status").FromString(trailers["grpc-status-details-bin"])
    details = {}
    for detail in status.details:
        name = detail.type_url.rpartition("/")[2]
        details[name] = message(name).FromString(detail.value)
    assert details["google.rpc.ErrorInfo"].reason == "MODEL_NOT_FOUND", details
    assert details["google.rpc.BadRequest"].field_violations[0].field == "model_version", details
else:
    raise AssertionError("expected NOT_FOUND")

print("ok")
