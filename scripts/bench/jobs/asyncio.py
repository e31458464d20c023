# jobs: functions that do nothing, on two workers, by concurrent.futures, or by
# run_in_executor of asyncio.
#   python3 -I asyncio.py threads|processes flight JOBS BATCH
#   python3 -I asyncio.py threads|processes one JOBS
#   python3 -I asyncio.py loop flight|one JOBS [BATCH] [uvloop]
# (-I: this file's name hides asyncio)
import asyncio
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

kind, mode, jobs = sys.argv[1], sys.argv[2], int(sys.argv[3])
batch = int(sys.argv[4]) if mode == "flight" else 1


def nothing():
    pass


def report(spent):
    if mode == "one":
        print(f"us {spent * 1e6 / jobs:.3f}")
    else:
        print(f"ns {spent * 1e9 / jobs:.3f}")


def run(executor):
    for future in [executor.submit(nothing) for _ in range(2)]:
        future.result()
    start = time.perf_counter()
    for _ in range(0, jobs, batch):
        for future in [executor.submit(nothing) for _ in range(batch)]:
            future.result()
    report(time.perf_counter() - start)


async def run_in_loop(executor):
    loop = asyncio.get_running_loop()
    start = time.perf_counter()
    for _ in range(0, jobs, batch):
        await asyncio.gather(
            *[loop.run_in_executor(executor, nothing) for _ in range(batch)]
        )
    report(time.perf_counter() - start)


if __name__ == "__main__":
    if "uvloop" in sys.argv:
        import uvloop

        uvloop.install()
    Executor = ProcessPoolExecutor if kind == "processes" else ThreadPoolExecutor
    with Executor(2) as pool:
        if kind == "loop":
            asyncio.run(run_in_loop(pool))
        else:
            run(pool)
