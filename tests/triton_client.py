"""Uses a cluster through Triton's client, and fails with an assertion where it disappoints.

Usage: triton_client.py 127.0.0.1:8000 MODEL
"""

import asyncio
import json
import queue
import sys

import numpy as np
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

url, model = sys.argv[1:]
client = triton.InferenceServerClient(url)
PROMPT = "The capital of France is"


def tensor(name, datatype, values, kind):
    made = triton.InferInput(name, [len(values)], datatype)
    made.set_data_from_numpy(np.array(values, dtype=kind))
    return made


def text(name, value):
    return tensor(name, "BYTES", [value.encode()], np.object_)


def infer(*inputs, **options):
    parameters = options.pop("parameters", {"max_tokens": 12, "temperature": 0.0})
    return client.infer(model, list(inputs), parameters=parameters, **options)


def said(result):
    return result.as_numpy("text_output")[0].decode()


def expect(code, part, call):
    try:
        call()
    except InferenceServerException as refused:
        assert refused.status() == f"StatusCode.{code}", refused
        assert part in refused.message(), refused
    else:
        raise AssertionError(f"expected {code} about {part}")


# Health and metadata.
assert client.is_server_live() and client.is_server_ready()
assert client.is_model_ready(model) and not client.is_model_ready("no-such-model")
assert client.get_server_metadata().name == "baton"
metadata = client.get_model_metadata(model)
assert {"text_input", "input_ids"} <= {tensor.name for tensor in metadata.inputs}
assert {"text_output", "output_ids"} <= {tensor.name for tensor in metadata.outputs}
expect("NOT_FOUND", "no-such-model", lambda: client.get_model_metadata("no-such-model"))

# A text, its tokens, and the same from tokens of both widths.
whole = infer(text("text_input", PROMPT), request_id="first")
assert "Paris" in said(whole), said(whole)
assert whole.get_response().id == "first"
assert whole.as_numpy("finish_reason")[0] in (b"stop", b"length")
assert whole.as_numpy("output_ids").dtype == np.int32
usage = whole.get_response().parameters
assert usage["completion_tokens"].int64_param == len(whole.as_numpy("output_ids")) <= 12
for datatype, kind in [("INT32", np.int32), ("INT64", np.int64)]:
    ids = tensor("input_ids", datatype, whole.as_numpy("output_ids"), kind)
    repeated = infer(ids)
    assert (repeated.as_numpy("output_ids") == infer(ids).as_numpy("output_ids")).all()

# A conversation; only what was asked for is sent.
messages = text("messages", json.dumps([{"role": "user", "content": "Say hello."}]))
hello = infer(messages, outputs=[triton.InferRequestedOutput("text_output")])
assert said(hello).strip() and hello.as_numpy("output_ids") is None

# Parameters as tensors, the way Triton's vLLM backend takes them.
tensors = [
    text("text_input", PROMPT),
    text("sampling_parameters", json.dumps({"temperature": "0", "max_tokens": "12"})),
    tensor("stream", "BOOL", [False], bool),
    tensor("exclude_input_in_output", "BOOL", [False], bool),
]
assert said(infer(*tensors, parameters=None)) == PROMPT + said(whole)

# Refusals say what is wrong.
expect("NOT_FOUND", "nobody", lambda: client.infer("nobody", [text("text_input", PROMPT)]))
expect("INVALID_ARGUMENT", "text_input", lambda: infer(tensor("input_idz", "INT32", [1], np.int32)))
expect("INVALID_ARGUMENT", "BYTES", lambda: infer(tensor("text_input", "INT32", [1], np.int32)))
expect("INVALID_ARGUMENT", "[2]", lambda: infer(tensor("stream", "BOOL", [True, True], bool)))
expect("INVALID_ARGUMENT", "temperature", lambda: infer(*tensors[:1], parameters={"temperature": 9}))
expect("INVALID_ARGUMENT", "ModelStreamInfer", lambda: infer(*tensors[:1], parameters={"stream": True}))

# A call that isn't waited for.
answers = queue.Queue()
client.async_infer(model, [text("text_input", PROMPT)], lambda result, error: answers.put(error or result),
                   parameters={"max_tokens": 12, "temperature": 0.0})
assert said(answers.get(timeout=60)) == said(whole)

# Several requests on a stream, one of them wrong: each gets its own answers, to the marked last.
answers = queue.Queue()
client.start_stream(lambda result, error: answers.put((result, error)))
for name, request_id in [(model, "a"), ("nobody", "lost"), (model, "b")]:
    client.async_stream_infer(name, [text("text_input", PROMPT)], request_id=request_id,
                              enable_empty_final_response=True,
                              parameters={"max_tokens": 12, "temperature": 0.0})
texts, parts, errors, running = {"a": "", "b": ""}, {"a": 0, "b": 0}, [], {"a", "b"}
while running or not errors:
    result, error = answers.get(timeout=60)
    if error:
        errors.append(error)
        continue
    response = result.get_response()
    texts[response.id] += said(result)
    parts[response.id] += 1
    if response.parameters["triton_final_response"].bool_param:
        assert result.as_numpy("finish_reason")[0]
        running.remove(response.id)
assert texts == {"a": said(whole), "b": said(whole)}, texts
assert min(parts.values()) > 2, parts
assert len(errors) == 1 and "nobody" in errors[0].message(), errors

# Leaving the stream cancels what runs.
client.async_stream_infer(model, [text("text_input", PROMPT)], parameters={"max_tokens": 1000, "ignore_eos": True})
answers.get(timeout=60)
client.stop_stream(cancel_requests=True)


# The asynchronous client, with parameters twice as in the vLLM backend's own sample.
async def sample():
    sampling = {"temperature": "0", "max_tokens": "12"}
    inputs = [
        text("text_input", PROMPT),
        tensor("stream", "BOOL", [True], bool),
        text("sampling_parameters", json.dumps(sampling)),
    ]
    outputs = [triton_aio.InferRequestedOutput("text_output")]

    async def requests():
        yield {"model_name": model, "inputs": inputs, "outputs": outputs, "request_id": "0", "parameters": sampling}

    pieces = []
    async with triton_aio.InferenceServerClient(url) as asynchronous:
        async for result, error in asynchronous.stream_infer(requests()):
            assert error is None, error
            pieces += [piece.decode() for piece in result.as_numpy("text_output")]
    assert "".join(pieces) == said(whole), pieces


asyncio.run(sample())
print("ok")
