"""Text as it is made, and where the time went.

Usage: stream.py HOST:PORT
"""

import sys

from baton_client import Client, Complete, Sampling


def main() -> None:
    with Client(sys.argv[1:]) as client:
        model = client.models()[0].id
        sampling = Sampling(max_tokens=64, temperature=0.7)
        with client.stream(model, "Once upon a time", sampling=sampling) as stream:
            for piece in stream.text():
                print(piece, end="", flush=True)
        print()

        # The same as events: here only the end counts.
        with client.stream(model, "Once upon a time", sampling=sampling) as stream:
            for event in stream:
                if isinstance(event, Complete):
                    print(event.finish_reason.value, event.timings.ttft, event.timings.tpot)


if __name__ == "__main__":
    main()
