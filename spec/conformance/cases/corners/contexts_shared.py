# A context that several tasks and callbacks run in: what one sets the next one sees; a
# task's own as a value; where a token may be used.
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


import contextvars

var = contextvars.ContextVar("var", default=0)


def add(n):
    var.set(var.get() + n)
    return var.get()


async def call(fn, *args):
    return fn(*args)


async def main():
    loop = asyncio.get_running_loop()
    shared = contextvars.copy_context()
    tasks = [asyncio.create_task(call(add, i), context=shared) for i in (1, 2, 3)]
    for task in tasks:
        say("task", await task)
    loop.call_soon(lambda n: say("callback", add(n)), 10, context=shared)
    future = loop.create_future()
    future.add_done_callback(lambda _: say("done callback", add(100)), context=shared)
    future.set_result(None)
    loop.call_soon(lambda: say("its own", add(1000)))
    await spin(1)
    say("shared", shared.get(var), "here", var.get())

    async def work():
        add(1)
        await asyncio.sleep(0)

        async def child():
            say("child", add(5))
        asyncio.create_task(child())
        add(1)
        await asyncio.sleep(0)

    worker = asyncio.create_task(work())
    own = worker.get_context()
    say("before", own.get(var, "nothing"))
    await spin(1)
    say("first step", own.get(var))
    await worker
    say("after", own.get(var), own.run(var.get))

    token = var.set("here")
    await attempt("elsewhere", asyncio.create_task(call(var.reset, token)))
    await attempt("in a copy", call(contextvars.copy_context().run, var.reset, token))
    var.reset(token)
    say("reset", var.get())
    await attempt("twice", call(var.reset, token))
    token = await asyncio.create_task(call(var.set, "shared"), context=shared)
    say("shared", shared.get(var))
    await asyncio.create_task(call(var.reset, token), context=shared)
    say("shared", shared.get(var))
    await attempt("entered twice", call(shared.run, shared.run, say, "never"))
    await attempt("one's own", call(asyncio.current_task().get_context().run, say, "never"))


asyncio.run(main())
