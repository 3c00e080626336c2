"""litellm, unchanged. Usage: litellm_client.py http://127.0.0.1:8000/v1 MODEL"""

import json
import sys

import litellm

url, model = sys.argv[1:]
options = {"model": f"openai/{model}", "api_base": url, "api_key": "unused", "temperature": 0, "max_tokens": 40}
messages = [{"role": "user", "content": "What is the capital of France?"}]

whole = litellm.completion(messages=messages, **options)
assert whole.choices[0].message.content and whole.usage.completion_tokens > 0, whole

text, usage = "", None
for chunk in litellm.completion(messages=messages, stream=True, stream_options={"include_usage": True}, **options):
    text += (chunk.choices[0].delta.content or "") if chunk.choices else ""
    usage = getattr(chunk, "usage", None) or usage
assert text == whole.choices[0].message.content, (text, whole)
assert usage.completion_tokens == whole.usage.completion_tokens, usage

schema = {"type": "object", "properties": {"big": {"type": "boolean"}},
          "required": ["big"], "additionalProperties": False}
formatted = {"type": "json_schema", "json_schema": {"name": "size", "schema": schema}}
answer = litellm.completion(messages=messages, response_format=formatted, **options)
assert isinstance(json.loads(answer.choices[0].message.content)["big"], bool), answer

empty = {"type": "object", "properties": {}, "additionalProperties": False}
tool = {"type": "function", "function": {"name": "get_time", "parameters": empty}}
called = litellm.completion(messages=messages, tools=[tool], tool_choice="required", parallel_tool_calls=False, **options).choices[0]
assert called.finish_reason == "tool_calls", called
assert called.message.tool_calls[0].function.name == "get_time", called

complete = litellm.text_completion(prompt="The capital of France is", **(options | {"model": f"text-completion-openai/{model}"}))
assert complete.choices[0].text, complete

try:
    litellm.completion(messages=messages, **(options | {"temperature": 9}))
except litellm.BadRequestError as refused:
    assert "temperature" in str(refused), refused
else:
    raise AssertionError("a temperature of 9 was taken")

print("ok")
