// spawn_process: starting /bin/true and waiting for its end, some at a time.
//   node.js SPAWNS AT_ONCE MIB
const { spawn } = require("child_process");
const [spawns, atOnce, mib] = process.argv.slice(2, 5).map(Number);
const memory = Buffer.alloc(mib << 20, 1);
let left = spawns;

function run() {
  return new Promise((resolve, reject) => {
    const child = spawn("/bin/true", [], { stdio: "inherit" });
    child.on("error", reject);
    child.on("exit", (code) => (code === 0 ? resolve() : reject(new Error(`exit ${code}`))));
  });
}

async function worker() {
  while (left > 0) {
    left--;
    await run();
  }
}

async function main() {
  const start = process.hrtime.bigint();
  await Promise.all(Array.from({ length: atOnce }, worker));
  const spent = Number(process.hrtime.bigint() - start);
  console.log(`us ${(spent / 1e3 / spawns).toFixed(2)}`);
  if (memory.length < 0) throw new Error("never");
}

main();
