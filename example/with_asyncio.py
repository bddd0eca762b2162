"""Uses the asyncio client: many concurrent requests in one thread, as in a web server.

Start a server first:  bert-serving-start
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from common import address, arguments, read_pairs

from bert_serving.client import AsyncBertClient

parser = arguments(__doc__)
parser.add_argument("-num_user", type=int, default=20, help="concurrent users (default: %(default)s)")
args = parser.parse_args()

_, headlines = read_pairs("headlines.tsv")


async def main() -> None:
    async with AsyncBertClient(**address(args)) as bc:

        async def user(number: int) -> tuple[int, ...]:
            """Encodes one text, like a request handler; all users share one client."""
            vectors = await bc.encode([headlines[number % len(headlines)]])
            return vectors.shape

        shapes = await asyncio.gather(*(user(number) for number in range(args.num_user)))
        print(f"{len(shapes)} users got {shapes[0]}")

        # asyncio provides time-outs; the client cancels the request.
        try:
            await asyncio.wait_for(bc.encode(headlines), timeout=0.0001)
        except asyncio.TimeoutError:
            print("this took too long")

        # A stream: a generator, asynchronous or not, may produce the batches.
        async def batches() -> AsyncIterator[list[str]]:
            for start in range(0, len(headlines), 30):
                await asyncio.sleep(0)  # an application waits for a message, a file or a database here
                yield headlines[start : start + 30]

        async for response in bc.encode_async(batches()):
            print(f"request {response.id}: received {response.shape[0]} x {response.shape[1]}")


asyncio.run(main())
