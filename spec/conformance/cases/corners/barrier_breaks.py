# A barrier that is reset while tasks wait and others arrive, loses one to a cancellation,
# and is broken and mended.
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
    barrier = asyncio.Barrier(3)

    async def party(tag):
        try:
            e = await barrier.wait()
            what = "passes as"
        except BaseException as x:
            e, what = x, "raised"
        say(tag, what, e, "waiting", barrier.n_waiting, "broken", barrier.broken)

    def parties(*tags):
        return [asyncio.create_task(party(tag)) for tag in tags]

    first = parties("a", "b")
    await spin(2)
    say("waiting", barrier.n_waiting)

    async def do_reset():
        await barrier.reset()
        say("reset")

    reset = asyncio.create_task(do_reset())
    second = parties("c", "d", "e")
    await asyncio.wait(first)
    await asyncio.wait(second)
    await reset

    # One that is cancelled does not count any more.
    third = parties("f", "g")
    await spin(2)
    third[0].cancel("gone")
    await spin(3)
    say("waiting", barrier.n_waiting)
    fourth = parties("h", "i")
    await asyncio.wait(third)
    await asyncio.wait(fourth)

    fifth = parties("j", "k")
    await spin(2)
    await barrier.abort()
    await asyncio.wait(fifth)
    await attempt("while broken", barrier.wait())
    await barrier.reset()
    say("waiting", barrier.n_waiting, "broken", barrier.broken)
    sixth = parties("l", "m", "n")
    await asyncio.wait(sixth)


asyncio.run(main())
