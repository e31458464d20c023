# gather of the same child twice, of children that are done, failed or cancelled before, of
# a shield, inside wait_for; and the trip in which its awaiter goes on.
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


async def ticker(n):
    for i in range(1, n + 1):
        say("trip", i)
        await asyncio.sleep(0)


async def job(tag, n):
    try:
        await spin(n)
    except BaseException as e:
        say(tag, "caught", e)
        raise
    say(tag, "done")
    return tag


def future(method, *args):
    f = asyncio.get_running_loop().create_future()
    getattr(f, method)(*args)
    return f


async def main():
    tick = asyncio.create_task(ticker(9))
    twice = asyncio.create_task(job("twice", 1))
    await attempt("twice", asyncio.gather(twice, job("other", 2), twice))
    done = future("set_result", "done")
    await attempt("all done", asyncio.gather(done, done))
    await attempt("cancelled before",
                  asyncio.gather(done, future("cancel", "gone"), job("runs on", 1)))
    await attempt("returned", asyncio.gather(
        done, future("cancel"), future("set_exception", ValueError("no")), job("last", 1),
        return_exceptions=True))
    await tick

    inner = asyncio.create_task(job("inner", 12))
    tick = asyncio.create_task(ticker(8))
    await attempt("wait_for",
                  asyncio.wait_for(asyncio.gather(asyncio.shield(inner), job("bare", 9)), 0))
    say("inner done:", inner.done())
    await tick
    await inner


asyncio.run(main())
