// pool_start: starting two workers, until each has answered.
//   node.js threads|processes TIMES
const { Worker, isMainThread, parentPort } = require("worker_threads");
const { fork } = require("child_process");

const [kind, times] = process.argv.slice(2);

if (!isMainThread) parentPort.postMessage("ready");
else if (process.send) process.send("ready");
else main();

function start() {
  return new Promise((done) => {
    const args = process.argv.slice(2);
    const worker = kind === "threads" ? new Worker(__filename, { argv: args }) : fork(__filename, args);
    worker.once("message", () => done(worker));
  });
}

async function main() {
  let spent = 0;
  for (let i = 0; i < Number(times); i++) {
    const begin = process.hrtime.bigint();
    const workers = await Promise.all([start(), start()]);
    spent += Number(process.hrtime.bigint() - begin);
    for (const worker of workers) {
      if (kind === "threads") await worker.terminate();
      else if (worker.connected) worker.disconnect();
    }
  }
  console.log(`ms ${(spent / 1e6 / Number(times)).toFixed(4)}`);
}
