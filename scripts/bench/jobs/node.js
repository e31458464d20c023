// jobs: messages to two workers, which answer, and nothing else.
//   node.js threads|processes flight JOBS BATCH
//   node.js threads|processes one JOBS
const { Worker, isMainThread, parentPort } = require("worker_threads");
const { fork } = require("child_process");

const [kind, mode, count, last] = process.argv.slice(2);
const jobs = Number(count);
const batch = mode === "flight" ? Number(last) : 1;

if (!isMainThread) parentPort.on("message", (n) => parentPort.postMessage(n));
else if (process.send) process.on("message", (n) => process.send(n));
else main();

function start(answered) {
  const worker =
    kind === "threads"
      ? new Worker(__filename, { argv: process.argv.slice(2) })
      : fork(__filename, process.argv.slice(2));
  worker.on("message", answered);
  return {
    send: (n) => (kind === "threads" ? worker.postMessage(n) : worker.send(n)),
    end: () => (kind === "threads" ? worker.terminate() : worker.disconnect()),
  };
}

async function main() {
  let due = 0;
  let resolve;
  const answered = () => {
    if (--due === 0) resolve();
  };
  const workers = [start(answered), start(answered)];
  const run = (size) =>
    new Promise((done) => {
      resolve = done;
      due = size;
      for (let i = 0; i < size; i++) workers[i & 1].send(i);
    });
  await run(2);
  const begin = process.hrtime.bigint();
  for (let i = 0; i < jobs; i += batch) await run(batch);
  const spent = Number(process.hrtime.bigint() - begin);
  if (mode === "one") console.log(`us ${(spent / 1e3 / jobs).toFixed(3)}`);
  else console.log(`ns ${(spent / jobs).toFixed(3)}`);
  workers.forEach((worker) => worker.end());
}
