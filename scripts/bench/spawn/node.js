// spawn: start async functions and await them, a batch at a time.
//   node.js eager|suspend TASKS BATCH
// An async function starts at once and, if it never awaits, never leaves the
// caller's stack ("eager"); "suspend" gives it one await, which is nearer a task.
const mode = process.argv[2];
const [tasks, batch] = process.argv.slice(3, 5).map(Number);
const eager = async () => {};
const suspend = async () => {
  await null;
};
const fn = mode === "eager" ? eager : suspend;

async function main() {
  const start = process.hrtime.bigint();
  for (let done = 0; done < tasks; done += batch) {
    await Promise.all(Array.from({ length: batch }, fn));
  }
  const spent = Number(process.hrtime.bigint() - start);
  console.log(`ns ${(spent / tasks).toFixed(2)}`);
}

main();
