// sleepers: promises of setTimeout for a second, in two waves.
//   node.js SLEEPERS
const fs = require("fs");

const count = Number(process.argv[2]);
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

function memoryKb(field) {
  const status = fs.readFileSync("/proc/self/status", "utf8");
  return Number(status.match(new RegExp(`^${field}:\\s*(\\d+)`, "m"))[1]);
}

async function sleeper() {
  await sleep(1000);
}

async function wave() {
  const start = process.hrtime.bigint();
  await Promise.all(Array.from({ length: count }, sleeper));
  return Number(process.hrtime.bigint() - start) / 1e6 - 1000;
}

async function main() {
  const before = memoryKb("VmRSS");
  const first = await wave();
  const kb = (memoryKb("VmHWM") - before) / count;
  const second = await wave();
  console.log(
    `ms ${first.toFixed(2)} kb ${kb.toFixed(3)} second ${second.toFixed(2)}`,
  );
}

main();
