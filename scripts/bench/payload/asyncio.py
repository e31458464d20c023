# payload: a large string to a worker process and back, one after the other, by
# concurrent.futures. (Threads share the object.)
#   python3 -I asyncio.py BYTES TIMES   (-I: this file's name hides asyncio)
import sys
import time
from concurrent.futures import ProcessPoolExecutor

text, times = b"x" * int(sys.argv[1]), int(sys.argv[2])


def echo(data):
    return data


if __name__ == "__main__":
    with ProcessPoolExecutor(1) as executor:
        assert executor.submit(echo, text).result() == text
        start = time.perf_counter()
        for _ in range(times):
            text = executor.submit(echo, text).result()
        print(f"us {(time.perf_counter() - start) * 1e6 / times:.3f}")
