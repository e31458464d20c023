// queue: one producer and one consumer over a bounded queue written by hand,
// since Node has none.
//   node.js CAPACITY ITEMS
const [capacity, items] = process.argv.slice(2, 4).map(Number);

class Queue {
  constructor(max) {
    this.ring = new Array(max);
    this.head = 0;
    this.count = 0;
    this.getter = null;
    this.putter = null;
  }

  async put(value) {
    while (this.count === this.ring.length) {
      await new Promise((resolve) => (this.putter = resolve));
    }
    this.ring[(this.head + this.count++) % this.ring.length] = value;
    const getter = this.getter;
    this.getter = null;
    if (getter) getter();
  }

  async get() {
    while (this.count === 0) {
      await new Promise((resolve) => (this.getter = resolve));
    }
    const value = this.ring[this.head];
    this.head = (this.head + 1) % this.ring.length;
    this.count--;
    const putter = this.putter;
    this.putter = null;
    if (putter) putter();
    return value;
  }
}

async function produce(q) {
  for (let i = 0; i < items; i++) await q.put(i);
}

async function consume(q) {
  let sum = 0;
  for (let i = 0; i < items; i++) sum += await q.get();
  return sum;
}

async function main() {
  const q = new Queue(capacity);
  const start = process.hrtime.bigint();
  const [sum] = await Promise.all([consume(q), produce(q)]);
  const spent = Number(process.hrtime.bigint() - start);
  if (sum !== (items * (items - 1)) / 2) throw new Error("wrong sum");
  console.log(`ns ${(spent / items).toFixed(2)}`);
}

main();
