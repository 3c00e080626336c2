"""A conversation of two questions.

Usage: chat.py HOST:PORT
"""

import sys

from baton_client import Client, Message, Sampling


def main() -> None:
    with Client(sys.argv[1:]) as client:
        model = client.models()[0].id
        messages = [Message.system("Answer in one sentence.")]
        for question in ("Why do relay runners hand over a baton?", "And if they drop it?"):
            messages.append(Message.user(question))
            answer = client.chat(model, messages, sampling=Sampling(max_tokens=48))
            messages.append(answer.choices[0].message())
            print(f"> {question}\n{answer.text.strip()}\n")
        print(answer.usage)


if __name__ == "__main__":
    main()
