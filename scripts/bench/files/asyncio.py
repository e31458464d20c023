# files: reads COUNT files of 4 KiB, AT_ONCE at a time, by to_thread, since
# asyncio has no files. The floor makes them.
#   python3 -I asyncio.py COUNT AT_ONCE [uvloop]   (-I: this file's name hides asyncio)
import asyncio
import sys
import time

count, at_once = int(sys.argv[1]), int(sys.argv[2])
directory = f"/tmp/perilune-bench-files-{count}/"
ROUNDS = 1


def read(path):
    with open(path, "rb", buffering=0) as file:
        return file.read()


async def round_():
    names = iter(range(1, count + 1))
    total = 0

    async def reader():
        nonlocal total
        for name in names:
            text = await asyncio.to_thread(read, directory + str(name))
            total += len(text)

    await asyncio.gather(*(reader() for _ in range(at_once)))
    assert total == count * 4096


async def main():
    start = time.perf_counter()
    for _ in range(ROUNDS):
        await round_()
    spent = time.perf_counter() - start
    print(f"us {spent * 1e6 / (ROUNDS * count):.3f}")


if "uvloop" in sys.argv:
    import uvloop

    uvloop.install()
asyncio.run(main())
