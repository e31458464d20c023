// fib: fib(30) on two worker threads at once, each TIMES, against one.
//   node.js TIMES
const { Worker, isMainThread, parentPort } = require("worker_threads");

const fib = (n) => (n < 2 ? n : fib(n - 1) + fib(n - 2));

if (isMainThread) main(Number(process.argv[2]));
else parentPort.on("message", (times) => {
  for (let i = 0; i < times; i++) if (fib(30) !== 832040) throw new Error("wrong");
  parentPort.postMessage("done");
});

async function main(times) {
  const workers = [new Worker(__filename), new Worker(__filename)];
  const run = async (count, amount) => {
    const start = process.hrtime.bigint();
    await Promise.all(workers.slice(0, count).map((worker) => new Promise((done) => {
      worker.once("message", done);
      worker.postMessage(amount);
    })));
    return Number(process.hrtime.bigint() - start);
  };
  await run(2, 5);
  const one = await run(1, times);
  const two = await run(2, times);
  console.log(`scale ${(two / one).toFixed(4)} ms ${(one / 1e6 / times).toFixed(3)}`);
  workers.forEach((worker) => worker.terminate());
}
