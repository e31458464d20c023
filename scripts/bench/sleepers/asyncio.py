# sleepers: tasks that each sleep for a second, in two waves.
#   python3 -I asyncio.py SLEEPERS   (-I: this file's name hides asyncio)
import asyncio
import sys
import time

count = int(sys.argv[1])


def memory_kb(field):
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1])


async def wave():
    start = time.perf_counter()
    await asyncio.gather(*[asyncio.sleep(1) for _ in range(count)])
    return (time.perf_counter() - start - 1) * 1e3


async def main():
    before = memory_kb("VmRSS")
    first = await wave()
    kb = (memory_kb("VmHWM") - before) / count
    print(f"ms {first:.2f} kb {kb:.3f} second {await wave():.2f}")


asyncio.run(main())
