// switch: async functions that do nothing but await.
//   node.js TASKS SWITCHES microtask|immediate
// "microtask" awaits null and never reaches the event loop; "immediate" does.
const [tasks, switches] = process.argv.slice(2, 4).map(Number);
const microtask = process.argv[4] === "microtask";
const rounds = Math.floor(switches / tasks);
const immediate = () => new Promise((resolve) => setImmediate(resolve));

async function spin() {
  if (microtask) {
    for (let i = 0; i < rounds; i++) await null;
  } else {
    for (let i = 0; i < rounds; i++) await immediate();
  }
}

async function main() {
  const start = process.hrtime.bigint();
  await Promise.all(Array.from({ length: tasks }, spin));
  const spent = Number(process.hrtime.bigint() - start);
  console.log(`ns ${(spent / (rounds * tasks)).toFixed(2)}`);
}

main();
