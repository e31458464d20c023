# Scopes in scopes with a cancellation from outside, before and after their deadlines; moved
# deadlines; a body that swallows, and one that asks for no more.
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


def count(tag):
    say(tag, "count", asyncio.current_task().cancelling())


# Both deadlines in one trip: the scopes cancel twice, each takes back one.
async def limited():
    async with asyncio.timeout(0):
        await asyncio.sleep(10)


async def both():
    async with asyncio.timeout(0) as outer:
        await attempt("inner", limited())
        count("between")
        await attempt("next wait", asyncio.sleep(0))
        say("outer expired:", outer.expired())


# From outside in the same trip: it stays a cancellation.
async def cancelled():
    await attempt("limited", limited())
    count("limited")
    asyncio.current_task().uncancel()
    await attempt("goes on", asyncio.sleep(0))


async def swallow():
    try:
        await asyncio.sleep(10)
    except BaseException:
        pass


# The body swallows: no TimeoutError, the count is as before.
async def swallows():
    async with asyncio.timeout(0) as scope:
        await swallow()
        count("swallowed")
        say("expired:", scope.expired())

        async def reschedule():
            scope.reschedule(None)
        await attempt("reschedule", reschedule())
        return "no error"


# Another error of the body goes through.
async def raises():
    async with asyncio.timeout(0):
        await swallow()
        raise ValueError("mine")


# Moved away, and taken away.
async def moved():
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(0) as scope:
        scope.reschedule(loop.time() + 10)
        await spin(2)
        scope.reschedule(None)
        say("when:", scope.when(), scope.expired())
        scope.reschedule(loop.time() - 1)
        await asyncio.sleep(10)


async def main():
    await attempt("both", both())
    count("after both")
    task = asyncio.create_task(cancelled())
    await spin(1)
    task.cancel("outside")
    await attempt("task", task)
    await attempt("swallows", swallows())
    count("after")
    await attempt("raises", raises())
    await attempt("moved", moved())
    count("end")


asyncio.run(main())
