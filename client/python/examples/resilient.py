"""A long answer that goes on when its router is killed: try it.

Usage: resilient.py HOST:PORT HOST:PORT
"""

import sys
from datetime import timedelta

from baton_client import BatonError, Client, Overloaded, Sampling


def main() -> None:
    with Client(sys.argv[1:]) as client:
        model = client.models(hedge_after=timedelta(seconds=1))[0].id
        stream = client.stream(
            model,
            "The longest story ever told begins",
            sampling=Sampling(max_tokens=400, ignore_eos=True),
            deadline=timedelta(minutes=5),
            first_token_within=timedelta(seconds=30),
        )
        try:
            with stream:
                for piece in stream.text():
                    print(piece, end="", flush=True)
        except Overloaded as error:
            sys.exit(f"\nthe cluster is full; try again after {error.retry_after}")
        except BatonError as error:
            sys.exit(f"\n{error.request_id}: {error}")
        print(f"\n{stream.client_request_id}: went on {stream.resumed} times")


if __name__ == "__main__":
    main()
