# Queues with waiters who are woken and then cancelled, robbed or shut out: nothing is lost,
# the turn goes to the next, a robbed getter queues again at the end.
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


def user(tag, aw):
    async def body():
        try:
            x = await aw
        except BaseException as e:
            say(tag, "raised", e)
        else:
            say(tag, "got", x)
    return asyncio.create_task(body())


async def drain(*tasks):
    for task in tasks:
        await task


async def main():
    # Woken, then cancelled: the item is for the next getter.
    q = asyncio.Queue()
    a, b = user("a", q.get()), user("b", q.get())
    await spin(1)
    q.put_nowait("item")
    a.cancel("woken")
    await drain(a, b)

    # Robbed: it waits again, behind the other.
    c, d = user("c", q.get()), user("d", q.get())
    await spin(1)
    q.put_nowait("stolen")
    say("thief got", q.get_nowait())
    await spin(1)
    q.put_nowait("first")
    q.put_nowait("second")
    await drain(c, d)

    # A putter that was woken and is cancelled passes the room on.
    small = asyncio.Queue(1)
    small.put_nowait(1)
    e, f = user("e", small.put(2)), user("f", small.put(3))
    await spin(1)
    say("took", small.get_nowait())
    e.cancel("woken")
    await drain(e, f)
    say("size", small.qsize(), small.get_nowait())

    # Shut down at once: items are dropped, and all waiters told.
    small.task_done()
    small.task_done()
    small.put_nowait(4)
    g, h = user("g", small.put(5)), user("h", small.join())
    await spin(1)
    small.shutdown(immediate=True)
    say("size", small.qsize())
    await drain(g, h)
    await attempt("get after", small.get())
    await attempt("put after", small.put(6))

    # Shut down in order: what is inside may still be taken.
    last = asyncio.PriorityQueue()
    i = user("i", last.get())
    await spin(1)
    for n in (3, 1, 2):
        last.put_nowait(n)
    last.shutdown()
    await drain(i)
    say("got", await last.get(), last.get_nowait())
    await attempt("get of nothing", last.get())

    async def marks():
        for _ in range(4):
            last.task_done()
    await attempt("one mark too many", marks())


asyncio.run(main())
