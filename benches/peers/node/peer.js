'use strict';

// Server and clients of the Node original. They take part like the bench's own processes: a line
// `port control` or an empty one when ready, then for each size on stdin a line of figures.
//
//   node peer.js server|client JOB PORT CONTROL N

const net = require('node:net');
const readline = require('node:readline');
const Base = require('sdk-base');
const cluster = require('cluster-client');

const SMALL = 128;
const VALUE = 1024;
// Values that are on their way at one time. Each push is answered, within 3 s by default.
const WINDOW = 64;

// Whoever listens for the next value, in the server.
let give = () => {};

class Upstream extends Base {
  constructor() {
    super();
    this.ready(true);
  }

  async echo(payload) {
    return payload;
  }

  subscribe(reg, listener) {
    give = listener;
  }
}

const quiet = { info() {}, warn() {}, error: console.error, debug() {} };

function create(port, isLeader) {
  const options = { port, isLeader, name: 'peer', logger: quiet, responseTimeout: 30000 };
  return cluster(Upstream, options).delegate('echo', 'invoke').create();
}

async function freePort() {
  const server = net.createServer().listen(0, '127.0.0.1');
  await new Promise(resolve => server.once('listening', resolve));
  const { port } = server.address();
  await new Promise(resolve => server.close(resolve));
  return port;
}

async function serve() {
  const port = await freePort();
  const leader = create(port, true);
  await leader.ready();
  let last = 0;
  const control = net.createServer(socket => {
    socket.on('data', data => {
      for (let at = 0; at + 8 <= data.length; at += 8) {
        for (let left = Number(data.readBigUInt64BE(at)); left > 0; left--) {
          give(String(++last).padStart(20, '0').padEnd(VALUE, 'x'));
        }
      }
    });
  });
  control.listen(0, '127.0.0.1', () => console.log(`${port} ${control.address().port}`));
  process.stdin.on('end', () => process.exit(0)).resume();
}

function quantile(times, at) {
  times.sort((a, b) => a - b);
  return times[Math.round((times.length - 1) * at)];
}

async function latency(client, size) {
  const payload = 'x'.repeat(SMALL);
  const times = [];
  for (let call = 0; call < size; call++) {
    const start = process.hrtime.bigint();
    await client.echo(payload);
    times.push(Number(process.hrtime.bigint() - start));
  }
  return [ quantile(times, 0.5), quantile(times, 0.99) ];
}

async function throughput(client, size, flight) {
  const payload = 'x'.repeat(SMALL);
  let left = size;
  const caller = async () => {
    while (left-- > 0) {
      const answer = await client.echo(payload);
      if (answer.length !== SMALL) throw new Error('an answer to something else');
    }
  };
  await Promise.all(Array.from({ length: flight }, caller));
  return [];
}

async function calls(job, port, flight) {
  const client = create(port, false);
  await client.ready();
  return size => (job === 'latency' ? latency(client, size) : throughput(client, size, flight));
}

async function values(port, control, connections) {
  let missing = 0;
  let done = () => {};
  for (let index = 0; index < connections; index++) {
    const client = create(port, false);
    await client.ready();
    let last = 0;
    client.subscribe({ dataId: 'values' }, value => {
      if (Number(value.slice(0, 20)) !== ++last) throw new Error('not the next value');
      if (--missing === 0) done();
    });
  }
  const socket = net.connect(control, '127.0.0.1');
  await new Promise(resolve => socket.once('connect', resolve));
  // Nothing says when a subscription was taken.
  await new Promise(resolve => setTimeout(resolve, 1000));
  return async size => {
    for (let left = size; left > 0; left -= WINDOW) {
      const window = Math.min(left, WINDOW);
      const arrived = new Promise(resolve => { done = resolve; });
      missing = window * connections;
      const ask = Buffer.alloc(8);
      ask.writeBigUInt64BE(BigInt(window));
      socket.write(ask);
      await arrived;
    }
    return [];
  };
}

async function main() {
  const [ part, job, port, control, n ] = process.argv.slice(2);
  if (part === 'server') return serve();
  const slice = job === 'fan-out'
    ? await values(Number(port), Number(control), Number(n))
    : await calls(job, Number(port), Number(n));
  console.log('');
  for await (const line of readline.createInterface({ input: process.stdin })) {
    console.log((await slice(Number(line))).join(' '));
  }
  process.exit(0);
}

main().catch(error => {
  console.error(error);
  process.exit(1);
});
