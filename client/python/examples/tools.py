"""A model that must call a function, and hears what came of it.

Usage: tools.py HOST:PORT
"""

import sys

from baton_client import Client, Message, Sampling, Tool, ToolCall

WEATHER = Tool(
    "weather",
    "Tells the weather of a city.",
    {
        "type": "object",
        "properties": {
            "city": {"enum": ["Paris", "Rome"]},
            "unit": {"enum": ["celsius", "fahrenheit"]},
        },
        "required": ["city", "unit"],
        "additionalProperties": False,
    },
)


def weather(call: ToolCall) -> str:
    arguments = call.parsed()
    return f"21 degrees {arguments['unit']} in {arguments['city']}"


def main() -> None:
    with Client(sys.argv[1:]) as client:
        model = client.models()[0].id
        messages = [Message.user("How warm is it in Rome?")]
        asked = client.chat(model, messages, tools=[WEATHER], tool_choice=WEATHER)
        messages.append(asked.choices[0].message())
        for call in asked.tool_calls:
            print(f"{call.name}({call.arguments})")
            messages.append(Message.tool(call, weather(call)))
        answer = client.chat(model, messages, sampling=Sampling(max_tokens=48))
        print(answer.text.strip())


if __name__ == "__main__":
    main()
