# spawn: start no-op tasks and await them, a batch at a time.
#   python3 -I asyncio.py task|gather TASKS BATCH   (-I: this file's name hides asyncio)
import asyncio
import sys
import time

mode, tasks, batch = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])


async def noop():
    pass


async def run():
    if mode == "gather":
        await asyncio.gather(*[noop() for _ in range(batch)])
    else:
        for task in [asyncio.create_task(noop()) for _ in range(batch)]:
            await task


async def main():
    start = time.perf_counter()
    for _ in range(tasks // batch):
        await run()
    print(f"ns {(time.perf_counter() - start) * 1e9 / tasks:.2f}")


asyncio.run(main())
