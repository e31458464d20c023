# switch: tasks that do nothing but sleep(0).
#   python3 -I asyncio.py TASKS SWITCHES   (-I: this file's name hides asyncio)
import asyncio
import sys
import time

tasks, switches = int(sys.argv[1]), int(sys.argv[2])
rounds = switches // tasks


async def spin():
    for _ in range(rounds):
        await asyncio.sleep(0)


async def main():
    start = time.perf_counter()
    for task in [asyncio.create_task(spin()) for _ in range(tasks)]:
        await task
    spent = time.perf_counter() - start
    print(f"ns {spent * 1e9 / (rounds * tasks):.2f}")


asyncio.run(main())
