"""The client for asyncio: many requests at a time in one thread, as a web server needs it.

Start a server first:  bert-serving-start
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from common import address, arguments, read_pairs

from bert_serving.client import AsyncBertClient

parser = arguments(__doc__)
parser.add_argument("-num_user", type=int, default=20, help="users at the same time (default: %(default)s)")
args = parser.parse_args()

_, headlines = read_pairs("headlines.tsv")


async def main() -> None:
    async with AsyncBertClient(**address(args)) as bc:

        async def user(number: int) -> tuple[int, ...]:
            """What a request handler would do. All of them share one client."""
            vectors = await bc.encode([headlines[number % len(headlines)]])
            return vectors.shape

        shapes = await asyncio.gather(*(user(number) for number in range(args.num_user)))
        print(f"{len(shapes)} users got {shapes[0]}")

        # A limit to patience is asyncio's own; the request is given up.
        try:
            await asyncio.wait_for(bc.encode(headlines), timeout=0.0001)
        except asyncio.TimeoutError:
            print("this took too long")

        # A stream: batches may be made by a generator, asynchronous or not.
        async def batches() -> AsyncIterator[list[str]]:
            for start in range(0, len(headlines), 30):
                await asyncio.sleep(0)  # here one would wait for a message, a file, a database
                yield headlines[start : start + 30]

        async for response in bc.encode_async(batches()):
            print(f"request {response.id}: received {response.shape[0]} x {response.shape[1]}")


asyncio.run(main())
