// cliff: what one operation costs among 100 and among 100,000; as perilune.lua,
// for the operations that Node has.
//   node.js gather|timers|timers-spread OPERATIONS
const mode = process.argv[2];
const operations = Number(process.argv[3]);
const noop = async () => {};
const now = () => Number(process.hrtime.bigint());

async function gather(count) {
  const start = now();
  await Promise.all(Array.from({ length: count }, noop));
  return now() - start;
}

async function timers(count, spread = 0) {
  const start = now();
  const list = [];
  let seed = 1;
  for (let i = 0; i < count; i++) {
    seed = (seed * 16807) % 2147483647;
    list.push(setTimeout(noop, 1e6 + (spread * seed) / 2147483647));
  }
  for (const timer of list) clearTimeout(timer);
  return now() - start;
}

const waves = {
  gather,
  timers,
  "timers-spread": (count) => timers(count, 1e6),
};

async function measure(count) {
  const wave = waves[mode];
  const times = Math.floor(operations / count);
  let total = 0;
  await wave(count);
  for (let i = 0; i < times; i++) total += await wave(count);
  return total / (times * count);
}

async function main() {
  const few = await measure(100);
  const many = await measure(100000);
  const cliff = (many / few).toFixed(3);
  console.log(`cliff ${cliff} few ${few.toFixed(2)} many ${many.toFixed(2)}`);
}

main();
