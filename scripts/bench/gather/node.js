// gather: async functions that await once and return a value, a batch at a time.
//   node.js CHILDREN BATCH
const [children, batch] = process.argv.slice(2, 4).map(Number);

async function child(_, i) {
  await null;
  return i;
}

async function main() {
  const start = process.hrtime.bigint();
  for (let done = 0; done < children; done += batch) {
    const results = await Promise.all(Array.from({ length: batch }, child));
    if (results[batch - 1] !== batch - 1) throw new Error("wrong result");
  }
  const spent = Number(process.hrtime.bigint() - start);
  console.log(`ns ${(spent / children).toFixed(2)}`);
}

main();
