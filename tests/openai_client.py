"""Uses a cluster through the official client, and fails with an assertion where it disappoints.

Usage: openai_client.py http://127.0.0.1:8000/v1
"""

import json
import sys
import typing

import openai
import pydantic

client = openai.OpenAI(base_url=sys.argv[1], api_key="unused", max_retries=0, timeout=120)
model = client.models.list().data[0].id
assert client.models.retrieve(model).id == model


def chat(**options):
    messages = [
        {"role": "user", "content": "What is the capital of France?"},
    ]
    defaults = {"model": model, "messages": messages, "max_tokens": 24, "temperature": 0}
    return client.chat.completions.create(**(defaults | options))


def complete(**options):
    defaults = {"model": model, "prompt": "The quick brown fox", "max_tokens": 12}
    return client.completions.create(**(defaults | options))


def expect(error, part, call):
    try:
        call()
    except error as refused:
        assert part in str(refused), refused
        assert refused.body["message"] and refused.body["type"], refused.body
    else:
        raise AssertionError(f"expected {error.__name__} about {part}")


# Chat, whole.
whole = chat()
answer = whole.choices[0].message.content
assert answer.strip(), "an empty answer"
assert whole.choices[0].message.role == "assistant"
assert whole.choices[0].finish_reason in ("stop", "length")
assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens
assert 0 < whole.usage.completion_tokens <= 24

# Chat, streamed: the same text, then the usage.
text, usage, reasons = "", None, []
for chunk in chat(stream=True, stream_options={"include_usage": True}):
    usage = chunk.usage or usage
    for choice in chunk.choices:
        text += choice.delta.content or ""
        reasons += [choice.finish_reason] if choice.finish_reason else []
assert text == answer, (text, answer)
assert usage.completion_tokens == whole.usage.completion_tokens
assert reasons == [whole.choices[0].finish_reason]

# Seeds repeat; the other way to say how many tokens works too.
first = chat(temperature=1, seed=7, max_tokens=16).choices[0].message.content
assert chat(temperature=1, seed=7, max_tokens=16).choices[0].message.content == first
assert chat(max_tokens=openai.NOT_GIVEN, max_completion_tokens=3).usage.completion_tokens == 3

# Completions, whole and streamed.
done = complete(temperature=0)
assert done.usage.completion_tokens <= 12 and done.choices[0].text
known = complete(prompt="The capital of France is", temperature=0).choices[0].text
assert "Paris" in known, known
streamed = "".join(part.choices[0].text for part in complete(temperature=0, stream=True) if part.choices)
assert streamed == done.choices[0].text

# Several prompts, whole and streamed: what each gets alone.
prompts = ["The capital of France is", "The quick brown fox"]
alone = [complete(prompt=prompt, temperature=0).choices[0].text for prompt in prompts]
assert [choice.text for choice in complete(prompt=prompts, temperature=0).choices] == alone
texts = ["", ""]
for part in complete(prompt=prompts, temperature=0, stream=True):
    for choice in part.choices:
        texts[choice.index] += choice.text
assert texts == alone, texts

# A stop string ends the text and is not part of it.
stop = done.choices[0].text.split()[1]
cut = complete(temperature=0, stop=[stop])
assert cut.choices[0].finish_reason == "stop" and stop not in cut.choices[0].text

# A stream that is left early.
left = chat(stream=True, max_tokens=400, temperature=1, seed=1)
next(iter(left))
left.close()

# Errors have their types.
expect(openai.NotFoundError, "no-such-model", lambda: chat(model="no-such-model"))
expect(openai.BadRequestError, "temperature", lambda: chat(temperature=9))
expect(openai.BadRequestError, "", lambda: complete(prompt=""))
expect(openai.BadRequestError, "", lambda: complete(prompt="long " * 20000))

# Several choices, whole and streamed.
several = chat(n=3, temperature=1, seed=7, max_tokens=8)
assert [choice.index for choice in several.choices] == [0, 1, 2]
texts = ["", "", ""]
for chunk in chat(n=3, temperature=1, seed=7, max_tokens=8, stream=True):
    for choice in chunk.choices:
        texts[choice.index] += choice.delta.content or ""
assert texts == [choice.message.content for choice in several.choices], texts

# Log-probabilities.
told = chat(logprobs=True, top_logprobs=2, max_tokens=3).choices[0].logprobs.content
assert len(told) == 3 and all(place.logprob == place.top_logprobs[0].logprob for place in told), told
told = complete(logprobs=2, max_tokens=3, temperature=0, echo=True).choices[0].logprobs
assert told.token_logprobs[0] is None and len(told.tokens) == len(told.text_offset) > 3, told


# Answers in a schema: the client's own classes, and a plain one.
class City(pydantic.BaseModel):
    name: typing.Literal["Paris", "Lyon"]
    inhabitants: typing.Annotated[int, pydantic.Field(ge=0, le=20_000_000)]


question = [{"role": "user", "content": "What is the capital of France?"}]
parsed = client.chat.completions.parse(
    model=model, messages=question, response_format=City, max_tokens=80, temperature=0)
assert isinstance(parsed.choices[0].message.parsed, City), parsed
schema = {"type": "object", "properties": {"big": {"type": "boolean"}},
          "required": ["big"], "additionalProperties": False}
plain = chat(response_format={"type": "json_schema", "json_schema": {"name": "size", "schema": schema}})
assert isinstance(json.loads(plain.choices[0].message.content)["big"], bool), plain

# Tools, whole and streamed, and what they answered.
parameters = {"type": "object", "properties": {"city": {"enum": ["Paris", "Oslo"]}}, "required": ["city"]}
tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
forced = {"type": "function", "function": {"name": "get_weather"}}
called = chat(tools=[tool], tool_choice=forced, max_tokens=60).choices[0]
assert called.finish_reason == "tool_calls", called
call = called.message.tool_calls[0]
assert call.function.name == "get_weather" and json.loads(call.function.arguments)["city"], call
with client.chat.completions.stream(
        model=model, messages=question, tools=[tool], tool_choice=forced, max_tokens=60, temperature=0) as stream:
    streamed = stream.get_final_completion().choices[0].message.tool_calls[0]
assert streamed.function.arguments == call.function.arguments, (streamed, call)
answered = [*question, called.message, {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
assert chat(messages=answered, tools=[tool]).choices[0].message.content
expect(openai.BadRequestError, "tool_choice", lambda: chat(tool_choice="required"))

print("ok")
