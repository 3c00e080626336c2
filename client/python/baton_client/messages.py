"""Conversations, and the functions a model may call."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from ._proto.baton.v1 import inference_pb2 as pb
from .sampling import as_json


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A function that the model calls, with its arguments."""

    id: str
    name: str
    #: A JSON object, as JSON.
    arguments: str

    def parsed(self) -> dict[str, Any]:
        """The arguments by their names.

        Raises:
            ValueError: The answer was cut off (`finish_reason` is `LENGTH`) inside the call.
        """
        parsed: dict[str, Any] = json.loads(self.arguments)
        return parsed


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation."""

    #: `system`, `user`, `assistant` or `tool`.
    role: str
    content: str = ""
    #: What an assistant called.
    tool_calls: Sequence[ToolCall] = ()
    #: The call a tool answers.
    tool_call_id: str = ""

    @classmethod
    def system(cls, content: str) -> Message:
        """What the model is to keep to."""
        return cls("system", content)

    @classmethod
    def user(cls, content: str) -> Message:
        """What somebody says to it."""
        return cls("user", content)

    @classmethod
    def assistant(cls, content: str = "", tool_calls: Sequence[ToolCall] = ()) -> Message:
        """What it said, and called."""
        return cls("assistant", content, tool_calls)

    @classmethod
    def tool(cls, call: ToolCall, content: str) -> Message:
        """What came of a call."""
        return cls("tool", content, tool_call_id=call.id)

    def to_wire(self) -> pb.Message:
        """As the protocol has it."""
        calls = [
            pb.ToolCall(id=call.id, name=call.name, arguments=call.arguments, index=index)
            for index, call in enumerate(self.tool_calls)
        ]
        return pb.Message(
            role=self.role,
            content=self.content,
            tool_calls=calls,
            tool_call_id=self.tool_call_id,
        )


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that a model may call."""

    #: Up to 64 letters, digits, `_` and `-`.
    name: str
    description: str = ""
    #: What the arguments must match: a JSON schema, as JSON or as what JSON is made of. None: any
    #: object.
    parameters: str | Mapping[str, Any] | None = None

    def to_wire(self) -> pb.Tool:
        """As the protocol has it."""
        parameters = "" if self.parameters is None else as_json(self.parameters)
        return pb.Tool(name=self.name, description=self.description, parameters=parameters)


class ToolChoice(Enum):
    """Whether a model calls tools."""

    #: As it likes.
    AUTO = pb.TOOL_CHOICE_UNSPECIFIED
    #: It doesn't hear of them.
    NONE = pb.TOOL_CHOICE_NONE
    #: It must call at least one.
    REQUIRED = pb.TOOL_CHOICE_REQUIRED


def chat_request(
    model: str,
    messages: Sequence[Message],
    tools: Sequence[Tool],
    tool_choice: ToolChoice | Tool,
    single_tool_call: bool,
) -> pb.ChatRequest:
    """A chat as the protocol has it; a tool as the choice is the one that must be called."""
    request = pb.ChatRequest(
        model=model,
        messages=[message.to_wire() for message in messages],
        tools=[tool.to_wire() for tool in tools],
        single_tool_call=single_tool_call,
    )
    if isinstance(tool_choice, Tool):
        request.tool_name = tool_choice.name
    else:
        request.tool_choice = tool_choice.value
    return request


def generate_request(model: str, prompt: str | Sequence[int]) -> pb.GenerateRequest:
    """A prompt to continue, a text or its tokens."""
    if isinstance(prompt, str):
        return pb.GenerateRequest(model=model, text=prompt)
    return pb.GenerateRequest(model=model, token_ids=pb.TokenIds(ids=prompt))


def tokenize_request(
    model: str, prompt: str | Sequence[Message], tools: Sequence[Tool]
) -> pb.TokenizeRequest:
    """A text, or a conversation as the model's chat template lays it out."""
    if isinstance(prompt, str):
        return pb.TokenizeRequest(model=model, text=prompt)
    conversation = pb.Conversation(
        messages=[message.to_wire() for message in prompt],
        tools=[tool.to_wire() for tool in tools],
    )
    return pb.TokenizeRequest(model=model, conversation=conversation)
