"""langchain-openai, unchanged. Usage: langchain_client.py http://127.0.0.1:8000/v1 MODEL"""

import sys
import typing

import pydantic
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI

url, model = sys.argv[1:]
chat = ChatOpenAI(base_url=url, api_key="unused", model=model, temperature=0, max_tokens=60, max_retries=0)
question = HumanMessage("What is the capital of France?")

answer = chat.invoke([question])
assert answer.content and answer.usage_metadata["output_tokens"] > 0, answer

parts = list(chat.stream([question]))
assert "".join(part.content for part in parts) == answer.content and len(parts) > 3, parts

assert len(chat.batch([[question], [question]])) == 2


@tool
def get_weather(city: typing.Literal["Paris", "Oslo"]) -> str:
    """Tells a city's weather."""
    return f"rain in {city}"


for choice in ("get_weather", "required"):
    called = chat.bind_tools([get_weather], tool_choice=choice).invoke([question])
    call = called.tool_calls[0]
    assert call["name"] == "get_weather" and call["args"]["city"] in ("Paris", "Oslo"), called
result = get_weather.invoke(call)
assert isinstance(result, ToolMessage)
assert chat.bind_tools([get_weather]).invoke([question, called, result]) is not None


class City(pydantic.BaseModel):
    """A city."""

    name: typing.Literal["Paris", "Lyon"]
    inhabitants: int = pydantic.Field(ge=0, le=20_000_000)


for method in ("json_schema", "function_calling"):
    city = chat.with_structured_output(City, method=method).invoke([question])
    assert isinstance(city, City), city

print("ok")
