// The queue design's first half: SMTP in, a job in Redis out, then 250. One process.
//
// Built as it is done in practice: what arrives in one turn of the loop is one addBulk (a pipeline, so one fsync of Redis
// for all of it); content that is not small has a key of its own, so that it is not JSON; mailboxes are looked up in
// Postgres and remembered for five seconds.
//
//   node accept.mjs '{"port": …, "redis": "redis://…", "database": "postgresql://…"}'
import { randomUUID } from 'node:crypto';
import { Queue } from 'bullmq';
import { Redis } from 'ioredis';
import pg from 'pg';
import { SMTPServer } from 'smtp-server';

const { port, redis, database } = JSON.parse(process.argv[2]);
const SMALL = 64 * 1024;
const REMEMBERED = 5000;

const connection = new Redis(redis, { maxRetriesPerRequest: null });
const pool = new pg.Pool({ connectionString: database, max: 4 });
const queue = new Queue('mail', {
  connection,
  defaultJobOptions: { removeOnComplete: true, removeOnFail: 1000, attempts: 5 },
});

let waiting = [];
let putting = 0;

function put(job) {
  return new Promise((resolve, reject) => {
    waiting.push({ job, resolve, reject });
    if (waiting.length === 1) setImmediate(flush);
  });
}

async function flush() {
  if (putting >= 2 || waiting.length === 0) return;
  const batch = waiting;
  waiting = [];
  putting += 1;
  try {
    const large = batch.filter(({ job }) => job.content.length > SMALL);
    if (large.length) {
      const pipeline = connection.pipeline();
      for (const { job } of large) {
        job.data.key = `content:${randomUUID()}`;
        pipeline.set(job.data.key, job.content);
      }
      for (const [error] of await pipeline.exec()) if (error) throw error;
    }
    await queue.addBulk(
      batch.map(({ job }) => ({
        name: 'mail',
        data: job.data.key ? job.data : { ...job.data, content: job.content.toString('latin1') },
      })),
    );
    for (const { resolve } of batch) resolve();
  } catch (error) {
    for (const { reject } of batch) reject(error);
  } finally {
    putting -= 1;
    if (waiting.length) setImmediate(flush);
  }
}

const known = new Map();

async function mailbox(address) {
  const key = address.toLowerCase().replace(/\+[^@]*@/, '@'); // name+tag@ is name@'s
  const found = known.get(key);
  if (found && found.until > Date.now()) return found.id;
  const { rows } = await pool.query({ name: 'look', text: 'select id from mailbox where address = $1', values: [key] });
  const id = rows.length ? rows[0].id : null;
  if (id !== null) known.set(key, { id, until: Date.now() + REMEMBERED });
  return id;
}

function refusal(code, text) {
  return Object.assign(new Error(text), { responseCode: code });
}

const server = new SMTPServer({
  name: 'localhost',
  disabledCommands: ['AUTH', 'STARTTLS'],
  disableReverseLookup: true,
  logger: false,
  size: 52428800,
  maxClients: 10000,
  onRcptTo(address, session, callback) {
    mailbox(address.address).then(
      (id) => {
        if (id === null) return callback(refusal(550, 'No such mailbox'));
        (session.mailboxes ??= new Set()).add(id);
        return callback();
      },
      () => callback(refusal(451, 'Try again later')),
    );
  },
  onData(stream, session, callback) {
    const chunks = [];
    stream.on('data', (chunk) => chunks.push(chunk));
    stream.on('error', callback);
    stream.on('end', () => {
      const job = {
        content: chunks.length === 1 ? chunks[0] : Buffer.concat(chunks),
        data: {
          sender: session.envelope.mailFrom ? session.envelope.mailFrom.address : '',
          mailboxes: [...session.mailboxes],
          client: session.remoteAddress,
          receivedAt: Date.now(),
        },
      };
      session.mailboxes = undefined;
      put(job).then(
        () => callback(null, 'Queued'),
        () => callback(refusal(451, 'Try again later')),
      );
    });
  },
});
server.on('error', () => {}); // a client that hangs up is its own affair
await queue.waitUntilReady();
server.listen(port, '127.0.0.1', () => console.log(JSON.stringify({ smtp: server.server.address().port })));
process.on('SIGTERM', () => process.exit(0));
