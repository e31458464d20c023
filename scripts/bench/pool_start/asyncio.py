# pool_start: making a pool of two, until it has done two jobs.
#   python3 -I asyncio.py threads|processes TIMES   (-I: this file's name hides asyncio)
import sys
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor

Executor = ThreadPoolExecutor if sys.argv[1] == "threads" else ProcessPoolExecutor
times = int(sys.argv[2])


def nothing():
    pass


if __name__ == "__main__":
    spent = 0
    for _ in range(times):
        start = time.perf_counter()
        with Executor(2) as executor:
            for future in [executor.submit(nothing) for _ in range(2)]:
                future.result()
            spent += time.perf_counter() - start
    print(f"ms {spent * 1e3 / times:.4f}")
