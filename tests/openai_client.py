"""Uses a cluster through the official client, and fails with an assertion where it disappoints.

Usage: openai_client.py http://127.0.0.1:8000/v1
"""

import sys

import openai

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

print("ok")
