"""An answer that is JSON of a schema, and one that matches a regular expression.

Usage: structured.py HOST:PORT
"""

import json
import sys

from baton_client import Client, FinishReason, Message, Sampling

RIVER = {
    "type": "object",
    "properties": {
        "river": {"type": "string", "maxLength": 20},
        "length_km": {"type": "integer", "minimum": 1, "maximum": 9999},
    },
    "required": ["river", "length_km"],
    "additionalProperties": False,
}


def main() -> None:
    with Client(sys.argv[1:]) as client:
        model = client.models()[0].id
        ask = [Message.user("Name a river, and how long it is.")]
        answer = client.chat(model, ask, sampling=Sampling(json_schema=RIVER, max_tokens=200))
        # One that was cut off is only the beginning of a match.
        assert answer.finish_reason is FinishReason.STOP
        river = json.loads(answer.text)
        print(f"{river['river']}: {river['length_km']} km")

        ask = [Message.user("Is Paris a city or a river?")]
        answer = client.chat(model, ask, sampling=Sampling(regex="city|river"))
        print(answer.text)


if __name__ == "__main__":
    main()
