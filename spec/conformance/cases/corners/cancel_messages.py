# Which message a CancelledError has: of two cancels before the task runs, through tasks,
# gathers and shields, and where a task cancels itself.
import asyncio


def show(x):
    if x is None:
        return "nil"
    if x is True or x is False:
        return str(x).lower()
    if isinstance(x, asyncio.CancelledError):
        return "CancelledError(%s)" % (x.args[0] if x.args and x.args[0] is not None else "")
    if isinstance(x, BaseExceptionGroup):
        return "ExceptionGroup(%s)" % ", ".join(show(e) for e in x.exceptions)
    if type(x) is ValueError and str(x).isalpha():
        return "ValueError(%s)" % x
    if isinstance(x, BaseException):
        return type(x).__name__
    if isinstance(x, (list, tuple)):
        return "[" + ", ".join(show(v) for v in x) + "]"
    return str(x)


def say(*xs):
    print(*[show(x) for x in xs])


async def spin(n):
    for _ in range(n):
        await asyncio.sleep(0)


# Says what the awaitable returns or raises.
async def attempt(tag, aw):
    try:
        x = await aw
    except BaseException as e:
        say(tag, "raised", e)
    else:
        say(tag, "returned", x)


def waiting(tag, aw):
    async def body():
        try:
            x = await aw
        except BaseException as e:
            say(tag, "caught", e)
            raise
        say(tag, "returned", x)
    return asyncio.create_task(body())


async def twice(tag, aw):
    task = waiting(tag, aw)
    await spin(3)
    task.cancel("first")
    task.cancel("second")
    await attempt(tag + " awaited", task)
    say(tag, "count", task.cancelling())


async def main():
    future = asyncio.get_running_loop().create_future
    await twice("sleep", asyncio.sleep(10))
    await twice("future", future())
    await twice("gather", asyncio.gather(future(), future()))
    await twice("shield", asyncio.shield(future()))
    lock = asyncio.Lock()
    await lock.acquire()
    await twice("lock", lock.acquire())

    ready = waiting("ready", spin(10))
    await spin(1)
    ready.cancel("first")
    ready.cancel("second")
    await attempt("ready awaited", ready)

    inner = waiting("inner", asyncio.sleep(10))
    outer = waiting("outer", inner)
    await spin(2)
    outer.cancel("through")
    await attempt("outer awaited", outer)

    async def cancels_itself():
        asyncio.current_task().cancel("by itself")
        say("goes on")
        await asyncio.sleep(10)

    itself = waiting("itself", cancels_itself())
    await attempt("itself awaited", itself)

    async def too_late():
        asyncio.current_task().cancel("too late")
        return "dropped"

    late = asyncio.create_task(too_late())
    await attempt("late", late)


asyncio.run(main())
