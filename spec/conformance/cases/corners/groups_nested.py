# Task groups in task groups: how their errors nest, who is cancelled when, and what is left
# of a cancellation from outside that comes with an error.
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


async def child(tag, n, ends=False):
    try:
        await spin(n)
    except BaseException as e:
        say(tag, "caught", e)
        raise
    say(tag, "fails" if ends else "done")
    if ends:
        raise ValueError(tag)


def count(tag):
    say(tag, "count", asyncio.current_task().cancelling())


# A failing grandchild ends the inner group, whose error ends the outer one.
async def nested():
    async with asyncio.TaskGroup() as outer:
        outer.create_task(child("sibling", 20))
        try:
            async with asyncio.TaskGroup() as inner:
                inner.create_task(child("grandchild", 2, True))
                inner.create_task(child("its sibling", 20))
                await spin(20)
        except BaseException as e:
            say("inner", False, e)
            count("between")
            raise


# Cancelled from outside while a child fails: the errors come first, the cancellation at
# the next wait.
async def fails_late():
    ok = True
    try:
        await spin(20)
    except BaseException:
        ok = False
    say("fails while it is cancelled", ok)
    raise ValueError("late")


async def cancelled_group():
    async with asyncio.TaskGroup() as group:
        group.create_task(fails_late())
        await spin(20)


async def cancelled_task():
    await attempt("group", cancelled_group())
    count("then")
    await attempt("next wait", asyncio.sleep(0))
    count("and then")


# An error of the block, one of a child that swallows nothing, and one that comes late.
async def block():
    async with asyncio.TaskGroup() as group:
        async def second():
            try:
                await spin(20)
            except BaseException:
                pass
            await spin(1)

            async def refused():
                return group.create_task(child("never", 0))
            await attempt("no more tasks", refused())
            raise ValueError("b")

        group.create_task(child("a", 1, True))
        group.create_task(second())
        await spin(1)
        raise ValueError("block")


async def main():
    await attempt("nested", nested())
    count("after")
    task = asyncio.create_task(cancelled_task())
    await spin(3)
    task.cancel("from outside")
    await attempt("task", task)
    await attempt("block", block())
    count("end")


asyncio.run(main())
