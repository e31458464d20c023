# spawn_process: starting /bin/true and waiting for its end, some at a time.
#   python3 -I asyncio.py SPAWNS AT_ONCE MIB [uvloop]   (-I: this file's name hides asyncio)
import asyncio
import sys
import time

spawns, at_once = int(sys.argv[1]), int(sys.argv[2])
memory = bytearray(b"x") * (int(sys.argv[3]) << 20)
left = spawns


async def worker():
    global left
    while left > 0:
        left -= 1
        process = await asyncio.create_subprocess_exec("/bin/true")
        assert await process.wait() == 0


async def main():
    start = time.perf_counter()
    await asyncio.gather(*[worker() for _ in range(at_once)])
    print(f"us {(time.perf_counter() - start) * 1e6 / spawns:.2f}")


if "uvloop" in sys.argv:
    import uvloop

    uvloop.install()
asyncio.run(main())
