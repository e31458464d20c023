// payload: a large string to a worker and back, one after the other.
//   node.js threads|processes BYTES TIMES
const { Worker, isMainThread, parentPort } = require("worker_threads");
const { fork } = require("child_process");

const [kind, bytes, count] = process.argv.slice(2);

if (!isMainThread) parentPort.on("message", (text) => parentPort.postMessage(text));
else if (process.send) process.on("message", (text) => process.send(text));
else main();

async function main() {
  const threads = kind === "threads";
  const args = process.argv.slice(2);
  const worker = threads ? new Worker(__filename, { argv: args }) : fork(__filename, args);
  let resolve;
  worker.on("message", (text) => resolve(text));
  const echo = (text) =>
    new Promise((done) => {
      resolve = done;
      if (threads) worker.postMessage(text);
      else worker.send(text);
    });
  const times = Number(count);
  let text = await echo("x".repeat(Number(bytes)));
  const start = process.hrtime.bigint();
  for (let i = 0; i < times; i++) text = await echo(text);
  const spent = Number(process.hrtime.bigint() - start);
  console.log(`us ${(spent / 1e3 / times).toFixed(3)}`);
  if (threads) worker.terminate();
  else worker.disconnect();
}
