"""Many requests at once, no more than a few of them under way, each with an objective.

Usage: async_many.py HOST:PORT...
"""

import asyncio
import sys

from baton_client import Answer, AsyncClient, BatonError, Sampling, Slo

AT_ONCE = 16


async def main() -> None:
    places = asyncio.Semaphore(AT_ONCE)
    async with AsyncClient(sys.argv[1:]) as client:
        model = (await client.models())[0].id

        async def ask(number: int) -> Answer | BatonError:
            async with places:
                try:
                    return await client.generate(
                        model,
                        f"{number} is the sum of",
                        sampling=Sampling(max_tokens=16, seed=number),
                        slo=Slo(ttft=5.0, tpot=0.2),
                    )
                except BatonError as error:
                    return error

        done = await asyncio.gather(*(ask(number) for number in range(64)))
    answers = [each for each in done if isinstance(each, Answer)]
    tokens = sum(answer.usage.completion_tokens for answer in answers)
    print(f"{len(answers)} of {len(done)} answered, {tokens} tokens")


if __name__ == "__main__":
    asyncio.run(main())
