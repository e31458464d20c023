# What is due in one trip: callbacks run in it, a sleeping task goes on in the next, and so
# a timeout still finds it asleep. What is overdue longest comes first.
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


# Says what the awaitable returns or raises.
async def attempt(tag, aw):
    try:
        x = await aw
    except BaseException as e:
        say(tag, "raised", e)
    else:
        say(tag, "returned", x)


async def sleeper(tag):
    await asyncio.sleep(0.01)
    say(tag, "slept")
    return tag


# Keeps the loop from looking at the time.
def block(loop, seconds):
    begin = loop.time()
    while loop.time() - begin < seconds:
        pass


async def main():
    loop = asyncio.get_running_loop()
    a = asyncio.create_task(sleeper("a"))
    b = asyncio.create_task(sleeper("b"))
    await asyncio.sleep(0)
    loop.call_later(0.01, say, "callback")
    waiter = asyncio.create_task(attempt("wait_for", asyncio.wait_for(b, 0.01)))
    await asyncio.sleep(0)
    loop.call_later(0, say, "due now")
    loop.call_later(-1, say, "overdue")
    loop.call_soon(say, "soon")
    block(loop, 0.03)
    await a
    await waiter
    say("b cancelled:", b.cancelled())


asyncio.run(main())
