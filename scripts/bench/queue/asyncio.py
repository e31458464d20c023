# queue: one producer and one consumer over a bounded queue.
#   python3 -I asyncio.py CAPACITY ITEMS   (-I: this file's name hides asyncio)
import asyncio
import sys
import time

capacity, items = int(sys.argv[1]), int(sys.argv[2])


async def produce(q):
    for i in range(items):
        await q.put(i)


async def consume(q):
    total = 0
    for _ in range(items):
        total += await q.get()
    return total


async def main():
    q = asyncio.Queue(capacity)
    start = time.perf_counter()
    total, _ = await asyncio.gather(consume(q), produce(q))
    spent = time.perf_counter() - start
    assert total == items * (items - 1) // 2
    print(f"ns {spent * 1e9 / items:.2f}")


asyncio.run(main())
