"""Parameters, as the protocol has them."""

from __future__ import annotations

from dataclasses import fields

import pytest

from baton_client import Message, Sampling, Tool, ToolCall, ToolChoice
from baton_client._proto.baton.v1 import inference_pb2 as pb
from baton_client.messages import chat_request
from baton_client.options import Asked


def test_every_field_of_the_protocol_is_there() -> None:
    ours = {field.name for field in fields(Sampling)} - {"json_schema", "regex"}
    assert ours == {field.name for field in pb.Sampling.DESCRIPTOR.fields}


def test_what_is_left_out_is_not_sent() -> None:
    assert Sampling().to_wire() == pb.Sampling()
    assert Sampling(temperature=0, seed=0).to_wire() == pb.Sampling(temperature=0, seed=0)


def test_everything_is_sent() -> None:
    sampling = Sampling(
        temperature=0.5,
        stop=["a", "b"],
        logit_bias={5: -1.5},
        stop_token_ids=[7],
        ignore_eos=True,
        n=3,
    )
    expected = pb.Sampling(
        temperature=0.5,
        stop=["a", "b"],
        logit_bias={5: -1.5},
        stop_token_ids=[7],
        ignore_eos=True,
        n=3,
    )
    assert sampling.to_wire() == expected
    assert sampling.choices == 3


def test_grammars() -> None:
    schema = {"type": "object"}
    assert Sampling(json_schema=schema).to_wire().grammar.json_schema == '{"type": "object"}'
    assert Sampling(json_schema="{}").to_wire().grammar.json_schema == "{}"
    assert Sampling(regex="a+").to_wire().grammar.regex == "a+"
    assert Sampling(grammar='start: "a"').to_wire().grammar.lark == 'start: "a"'


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": "hot"},
        {"seed": 1.5},
        {"n": True},
        {"stop": "a"},
        {"json_schema": 1},
        {"regex": "a", "grammar": "b"},
        {"unknown": 1},
    ],
)
def test_wrong_types_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        Sampling(**wrong)  # type: ignore[arg-type]


def test_chats_are_built() -> None:
    call = ToolCall("call-1", "count", '{"to": 3}')
    assert call.parsed() == {"to": 3}
    tool = Tool("count", "Counts.", {"type": "object"})
    messages = [
        Message.system("Be brief."),
        Message.user("Count to 3."),
        Message.assistant(tool_calls=[call]),
        Message.tool(call, "1 2 3"),
    ]
    request = chat_request("sim", messages, [tool], ToolChoice.REQUIRED, True)
    assert [message.role for message in request.messages] == ["system", "user", "assistant", "tool"]
    assert request.messages[2].tool_calls[0].arguments == '{"to": 3}'
    assert request.messages[3].tool_call_id == "call-1"
    assert request.tools[0].parameters == '{"type": "object"}'
    assert request.tool_choice == pb.TOOL_CHOICE_REQUIRED
    assert request.single_tool_call
    by_name = chat_request("sim", messages, [tool], tool, False)
    assert by_name.WhichOneof("choice") == "tool_name"
    assert by_name.tool_name == "count"


def test_the_current_span_is_told() -> None:
    from opentelemetry import trace
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, use_span

    context = SpanContext(0xABC, 0xDEF, is_remote=False, trace_flags=TraceFlags(1))
    assert "traceparent" not in dict(Asked().metadata())
    with use_span(NonRecordingSpan(context)):
        assert trace.get_current_span().get_span_context() == context
        told = dict(Asked().metadata())["traceparent"]
        own = dict(Asked(trace_parent="00-x").metadata())["traceparent"]
    assert told == f"00-{0xABC:032x}-{0xDEF:016x}-01"
    assert own == "00-x"


def test_each_request_has_a_name() -> None:
    first, second = (dict(Asked().metadata())["x-request-id"] for _ in range(2))
    assert first != second
