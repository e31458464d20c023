// files: reads COUNT files of 4 KiB, AT_ONCE at a time. The floor makes them.
//   node.js COUNT AT_ONCE
const { readFile } = require("fs/promises");

const [count, atOnce] = process.argv.slice(2, 4).map(Number);
const directory = `/tmp/perilune-bench-files-${count}/`;
const ROUNDS = 2;

async function round() {
  let next = 1;
  let bytes = 0;
  async function reader() {
    while (next <= count) {
      const text = await readFile(directory + next++);
      bytes += text.length;
    }
  }
  await Promise.all(Array.from({ length: atOnce }, reader));
  if (bytes !== count * 4096) throw new Error("wrong number of bytes");
}

async function main() {
  await round();
  const start = process.hrtime.bigint();
  for (let i = 0; i < ROUNDS; i++) await round();
  const spent = Number(process.hrtime.bigint() - start);
  console.log(`us ${(spent / 1e3 / (ROUNDS * count)).toFixed(3)}`);
}

main();
