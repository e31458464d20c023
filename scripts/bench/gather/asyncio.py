# gather: children that wait once and return a value, a batch at a time.
#   python3 -I asyncio.py CHILDREN BATCH   (-I: this file's name hides asyncio)
import asyncio
import sys
import time

children, batch = int(sys.argv[1]), int(sys.argv[2])


async def child(i):
    await asyncio.sleep(0)
    return i


async def main():
    start = time.perf_counter()
    for _ in range(children // batch):
        results = await asyncio.gather(*[child(i) for i in range(batch)])
        assert results[-1] == batch - 1
    print(f"ns {(time.perf_counter() - start) * 1e9 / children:.2f}")


asyncio.run(main())
