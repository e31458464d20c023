# cliff: what one operation costs among 100 and among 100,000; as perilune.lua.
#   python3 -I asyncio.py gather|wait|cancel|timers|timers-spread|close OPERATIONS
#   (-I: this file's name hides asyncio)
import asyncio
import sys
import time

mode, operations = sys.argv[1], int(sys.argv[2])
clock = time.perf_counter


async def noop():
    pass


async def gather(count):
    start = clock()
    await asyncio.gather(*[noop() for _ in range(count)])
    return clock() - start


async def wait(count):
    start = clock()
    await asyncio.wait([asyncio.create_task(noop()) for _ in range(count)])
    return clock() - start


async def park(count):
    tasks = [asyncio.create_task(asyncio.sleep(3600)) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


async def cancel(count):
    tasks = await park(count)
    start = clock()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    return clock() - start


async def timers(count, spread=0):
    loop = asyncio.get_running_loop()
    seed = 1
    start = clock()
    handles = []
    for _ in range(count):
        seed = seed * 16807 % 2147483647
        delay = 1000 + spread * seed / 2147483647
        handles.append(loop.call_later(delay, noop))
    for handle in handles:
        handle.cancel()
    return clock() - start


async def timers_spread(count):
    return await timers(count, 1000)


def close(count):
    runner = asyncio.Runner()
    runner.run(park(count))
    start = clock()
    runner.close()
    return clock() - start


async def in_one_loop(count, times):
    wave = globals()[mode.replace("-", "_")]
    await wave(count)
    return sum([await wave(count) for _ in range(times)])


def measure(count):
    times = operations // count
    if mode == "close":
        close(count)
        total = sum([close(count) for _ in range(times)])
    else:
        total = asyncio.run(in_one_loop(count, times))
    return total * 1e9 / (times * count)


few, many = measure(100), measure(100000)
print(f"cliff {many / few:.3f} few {few:.2f} many {many:.2f}")
