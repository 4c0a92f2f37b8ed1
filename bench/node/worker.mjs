// The queue design's second half: jobs out of Redis, parsed, committed in Postgres, then announced. One process.
//
// Jobs are worked on many at once, and what is parsed while the last transaction commits is the next one: one INSERT of
// many rows. Each message is stored once and has a row in delivery for each mailbox. After the commit each delivery is
// published on its mailbox's channel.
//
//   node worker.mjs '{"redis": "redis://…", "announce": "redis://…", "database": "postgresql://…"}'
import { Worker } from 'bullmq';
import { Redis } from 'ioredis';
import { simpleParser } from 'mailparser';
import pg from 'pg';

const { redis, announce, database } = JSON.parse(process.argv[2]);
const AT_ONCE = 200;
const MOST_ROWS = 100;
const COMMITTING = 2;

const connection = new Redis(redis, { maxRetriesPerRequest: null });
const contents = new Redis(redis);
const teller = new Redis(announce);
const pool = new pg.Pool({ connectionString: database, max: COMMITTING });
const PARSING = { skipHtmlToText: true, skipTextToHtml: true, skipTextLinks: true, skipImageLinks: true };

let waiting = [];
let committing = 0;

function store(message) {
  return new Promise((resolve, reject) => {
    waiting.push({ message, resolve, reject });
    if (waiting.length === 1) setImmediate(flush);
  });
}

async function flush() {
  if (committing >= COMMITTING || waiting.length === 0) return;
  const batch = waiting.splice(0, MOST_ROWS);
  committing += 1;
  try {
    const told = await commit(batch.map(({ message }) => message));
    const pipeline = teller.pipeline();
    for (const [channel, text] of told) pipeline.publish(channel, text);
    await pipeline.exec();
    for (const { resolve } of batch) resolve();
  } catch (error) {
    for (const { reject } of batch) reject(error);
  } finally {
    committing -= 1;
    if (waiting.length) setImmediate(flush);
  }
}

const COLUMNS = ['job', 'message_id', 'subject', 'sender', 'from_address', 'text', 'received_at', 'size', 'content'];
const statements = new Map();

function insert(rows) {
  let text = statements.get(rows);
  if (!text) {
    const places = [];
    for (let row = 0; row < rows; row += 1) {
      places.push(`(${COLUMNS.map((_, column) => `$${row * COLUMNS.length + column + 1}`).join(',')})`);
    }
    text = `insert into message (${COLUMNS.join(',')}) values ${places.join(',')}
      on conflict (job) do nothing returning id, job`;
    statements.set(rows, text);
  }
  return text;
}

async function commit(messages) {
  const client = await pool.connect();
  try {
    await client.query('begin');
    const values = [];
    for (const one of messages) for (const column of COLUMNS) values.push(one[column]);
    const name = `insert${messages.length}`;
    const { rows } = await client.query({ name, text: insert(messages.length), values });
    const of = new Map(rows.map(({ id, job }) => [job, id]));
    const ids = [];
    const mailboxes = [];
    const told = [];
    for (const one of messages) {
      const id = of.get(one.job);
      if (id === undefined) continue; // it was stored before
      for (const mailbox of one.mailboxes) {
        ids.push(id);
        mailboxes.push(mailbox);
        const form = { type: 'filed', id, mailbox, message_id: one.message_id, subject: one.subject };
        told.push([`mailbox:${mailbox}`, JSON.stringify({ ...form, from: one.from_address, size: one.size })]);
      }
    }
    if (ids.length) {
      const text = 'insert into delivery (message, mailbox) select * from unnest($1::bigint[], $2::bigint[])';
      await client.query({ name: 'deliver', text, values: [ids, mailboxes] });
    }
    await client.query('commit');
    return told;
  } catch (error) {
    await client.query('rollback').catch(() => {});
    throw error;
  } finally {
    client.release();
  }
}

async function work(job) {
  const { sender, mailboxes, receivedAt, key } = job.data;
  const content = key ? await contents.getBuffer(key) : Buffer.from(job.data.content, 'latin1');
  const parsed = await simpleParser(content, PARSING);
  await store({
    job: job.id,
    message_id: parsed.messageId ?? '',
    subject: parsed.subject ?? '',
    sender,
    from_address: parsed.from ? parsed.from.text : '',
    text: parsed.text ?? '',
    received_at: new Date(receivedAt),
    size: content.length,
    content,
    mailboxes,
  });
  if (key) await contents.del(key);
}

const worker = new Worker('mail', work, { connection, concurrency: AT_ONCE, lockDuration: 60000 });
worker.on('error', (error) => console.error(error));
worker.on('failed', (job, error) => console.error(error));
await worker.waitUntilReady();
console.log(JSON.stringify({ ready: true }));
process.on('SIGTERM', () => process.exit(0));
