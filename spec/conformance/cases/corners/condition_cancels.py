# A waiter of a condition that is cancelled while it takes the lock back: it gets the lock
# first, the last cancellation is what it raises, its notification goes to another.
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


async def main():
    cond = asyncio.Condition()

    async def waiter(tag):
        async with cond:
            try:
                x = await cond.wait()
            except BaseException as e:
                say(tag, "raised", e, "locked", cond.locked())
            else:
                say(tag, "notified", x, "locked", cond.locked())
            await spin(1)

    async def holder(n):
        async with cond:
            cond.notify(1)
            say("notified one, keeps the lock")
            await spin(n)
            say("lets go")

    a = asyncio.create_task(waiter("a"))
    b = asyncio.create_task(waiter("b"))
    c = asyncio.create_task(waiter("c"))
    await spin(1)
    h = asyncio.create_task(holder(4))
    await spin(3)
    a.cancel("one")
    await spin(1)
    a.cancel("two")
    await h
    await a
    await b
    say("c done:", c.done())
    # Cancelled while it waits to be notified: nothing is lost.
    c.cancel("three")
    await spin(1)
    await c
    say("locked", cond.locked())

    # A notification that comes with the cancellation goes on, too.
    d = asyncio.create_task(waiter("d"))
    e = asyncio.create_task(waiter("e"))
    await spin(1)
    await cond.acquire()
    cond.notify(1)
    d.cancel("with it")
    cond.release()
    await d
    await e
    await attempt("not acquired", cond.wait())


asyncio.run(main())
