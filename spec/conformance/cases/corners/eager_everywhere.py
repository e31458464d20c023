# With the eager task factory: gather, TaskGroup, wait, as_completed, shield and wait_for, whose
# children may be done before anybody waits, or end each other.
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


async def job(tag, n, err=False):
    say(tag, "starts")
    await spin(n)
    say(tag, "ends")
    if err:
        raise ValueError(tag)
    return tag


async def main():
    loop = asyncio.get_running_loop()
    loop.set_task_factory(asyncio.eager_task_factory)
    tick = asyncio.create_task(ticker(30))

    gather = asyncio.gather(job("a", 0), job("b", 0))
    say("gather done:", gather.done(), await gather)
    future = loop.create_future()

    async def ends_other():
        future.set_result("by the child")
        return "child"

    gather = asyncio.gather(future, ends_other())
    say("gather done:", gather.done(), await gather)
    await attempt("failing", asyncio.gather(job("c", 0, True), job("d", 1)))

    async def group_of_three():
        async with asyncio.TaskGroup() as group:
            e = group.create_task(job("e", 0))
            say("e done:", e.done())
            group.create_task(job("f", 1))
            group.create_task(job("g", 0, True))
            say("not interrupted before it waits")
            await spin(3)

    await attempt("group", group_of_three())

    h, i = asyncio.create_task(job("h", 0)), asyncio.create_task(job("i", 6))
    done, pending = await asyncio.wait([i, h], return_when=asyncio.FIRST_COMPLETED)
    say("wait", len(done), len(pending))
    async for task in asyncio.as_completed([i, h]):
        say("completed", task.result())
    say("shield", asyncio.shield(job("j", 0)).done())
    await attempt("wait_for", asyncio.wait_for(job("k", 0), 0))
    await attempt("wait_for", asyncio.wait_for(job("l", 3), 0))
    await tick


asyncio.run(main())
