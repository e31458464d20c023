# fib: fib(30) on two processes at once, each TIMES, against one.
#   python3 -I asyncio.py TIMES   (-I: this file's name hides asyncio)
import sys
import time
from concurrent.futures import ProcessPoolExecutor

times = int(sys.argv[1])


def fib(n):
    return n if n < 2 else fib(n - 1) + fib(n - 2)


def job():
    for _ in range(times):
        assert fib(30) == 832040


def run(executor, workers):
    start = time.perf_counter()
    for future in [executor.submit(job) for _ in range(workers)]:
        future.result()
    return time.perf_counter() - start


if __name__ == "__main__":
    with ProcessPoolExecutor(2) as pool:
        for ready in [pool.submit(fib, 20) for _ in range(2)]:
            ready.result()
        one, two = run(pool, 1), run(pool, 2)
        print(f"scale {two / one:.4f} ms {one * 1e3 / times:.3f}")
