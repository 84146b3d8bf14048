// amqplib: what most Node programs use, with promises and with its own ideas of pipelining.
import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { once } from "node:events";
import { after, before, test } from "node:test";
import { setTimeout as pause } from "node:timers/promises";

import amqp from "amqplib";

import { Program, foreign } from "./program.js";

const options = { timeout: 60_000 };
const ownBroker = { ...options, skip: foreign ? "another broker is under test and is not ours to kill" : false };
const delays = { ...options, skip: foreign ? "the broker under test has no delayed exchange" : false };

let shared;
let url = foreign;

before(async () => {
  if (foreign) return;
  shared = await new Program().start();
  url = shared.url;
});

after(async () => {
  if (shared) assert.equal(await shared.end("SIGTERM"), 0);
});

/** Opens a connection for one test, hands it a name of its own, and closes it whatever happens. */
function scenario(title, settings, body) {
  test(title, settings, async () => {
    const connection = await amqp.connect(url);
    connection.on("error", () => {});
    try {
      await body(connection, `${title.replaceAll(" ", "-")}-${randomUUID().slice(0, 8)}`);
    } finally {
      await connection.close().catch(() => {});
    }
  });
}

/** Asks for messages until there is one. */
async function get(channel, queue, settings = { noAck: true }) {
  for (let tries = 0; tries < 500; tries++) {
    const message = await channel.get(queue, settings);
    if (message) return message;
    await pause(20);
  }
  throw new Error(`no message in ${queue}`);
}

/** Collects deliveries and hands out the next one when it is there. */
function collect() {
  const waiting = [];
  const arrived = [];
  const take = (message) => (waiting.length ? waiting.shift()(message) : arrived.push(message));
  const next = () => (arrived.length ? Promise.resolve(arrived.shift()) : new Promise((resolve) => waiting.push(resolve)));
  return { take, next, arrived };
}

scenario("topology routes and is deleted", options, async (connection, name) => {
  const channel = await connection.createChannel();
  await channel.assertExchange(`${name}-in`, "topic", { autoDelete: true });
  await channel.assertExchange(name, "headers", { autoDelete: true });
  const { queue } = await channel.assertQueue("", { exclusive: true });
  await channel.bindExchange(name, `${name}-in`, "a.#");
  await channel.bindQueue(queue, name, "", { "x-match": "all", colour: "red", size: 1 });

  channel.publish(`${name}-in`, "a.b.c", Buffer.from("miss"), { headers: { colour: "red" } });
  channel.publish(`${name}-in`, "a.b.c", Buffer.from("hit"), { headers: { colour: "red", size: 1 } });

  assert.equal((await get(channel, queue)).content.toString(), "hit");
  await channel.unbindQueue(queue, name, "", { "x-match": "all", colour: "red", size: 1 });
  assert.match(queue, /^amq\.gen-/);
});

scenario("an alternate exchange takes what is not routed", options, async (connection, name) => {
  const channel = await connection.createChannel();
  await channel.assertExchange(`${name}-rest`, "fanout", { autoDelete: true });
  await channel.assertExchange(name, "direct", { alternateExchange: `${name}-rest` });
  await channel.assertQueue(name, { exclusive: true });
  await channel.bindQueue(name, `${name}-rest`, "");

  channel.publish(name, "nobody", Buffer.from("x"));

  assert.equal((await get(channel, name)).fields.routingKey, "nobody");
  await channel.deleteExchange(name);
});

scenario("every confirm arrives", options, async (connection, name) => {
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue(name, { exclusive: true });

  for (let number = 0; number < 1000; number++) channel.sendToQueue(name, Buffer.from("x"), { persistent: true });
  await channel.waitForConfirms();

  assert.equal((await channel.checkQueue(name)).messageCount, 1000);
});

scenario("a refused publish is nacked", options, async (connection, name) => {
  const channel = await connection.createConfirmChannel();
  await channel.assertQueue(name, { exclusive: true, maxLength: 1, overflow: "reject-publish" });
  channel.sendToQueue(name, Buffer.from("fits"));
  await channel.waitForConfirms();

  channel.sendToQueue(name, Buffer.from("does not"));

  await assert.rejects(channel.waitForConfirms(), /nacked/);
});

scenario("a return comes before its confirm", options, async (connection, name) => {
  const channel = await connection.createConfirmChannel();
  const order = [];
  channel.on("return", (message) => order.push(message.fields.replyCode, message.content.toString()));

  channel.publish("", name, Buffer.from("back"), { mandatory: true }, () => order.push("confirmed"));
  await channel.waitForConfirms();

  assert.deepEqual(order, [312, "back", "confirmed"]);
});

scenario("prefetch holds deliveries back", options, async (connection, name) => {
  const channel = await connection.createChannel();
  await channel.assertQueue(name, { exclusive: true });
  for (let number = 0; number < 6; number++) channel.sendToQueue(name, Buffer.from(String(number)));
  await channel.prefetch(2);
  const inbox = collect();
  await channel.consume(name, inbox.take);

  const held = [await inbox.next(), await inbox.next()];
  await channel.checkQueue(name);
  assert.equal(inbox.arrived.length, 0);
  channel.ack(held[1], true);

  assert.deepEqual([await inbox.next(), await inbox.next()].map((m) => m.content.toString()), ["2", "3"]);
});

scenario("a channel prefetch is shared by its consumers", options, async (connection, name) => {
  const channel = await connection.createChannel();
  await channel.prefetch(3, true);
  const inbox = collect();
  for (const queue of [`${name}-a`, `${name}-b`]) {
    await channel.assertQueue(queue, { exclusive: true });
    for (let number = 0; number < 3; number++) channel.sendToQueue(queue, Buffer.from("x"));
    await channel.consume(queue, inbox.take);
  }

  const held = [await inbox.next(), await inbox.next(), await inbox.next()];
  await channel.checkQueue(`${name}-a`);
  assert.equal(inbox.arrived.length, 0);
  held.forEach((message) => channel.ack(message));

  await Promise.all([inbox.next(), inbox.next(), inbox.next()]);
});

scenario("nack gives back and reject sends to the dead letters", options, async (connection, name) => {
  const channel = await connection.createChannel();
  await channel.assertQueue(`${name}-dead`, { exclusive: true });
  await channel.assertQueue(name, {
    exclusive: true,
    deadLetterExchange: "",
    deadLetterRoutingKey: `${name}-dead`,
  });
  channel.sendToQueue(name, Buffer.from("x"));

  channel.nack(await get(channel, name, {}), false, true);
  const again = await get(channel, name, {});
  assert.equal(again.fields.redelivered, true);
  channel.reject(again, false);

  const dead = await get(channel, `${name}-dead`);
  const [death] = dead.properties.headers["x-death"];
  assert.deepEqual([death.reason, death.queue, Number(death.count), death["routing-keys"]], ["rejected", name, 1, [name]]);
  assert.equal(dead.properties.headers["x-first-death-reason"], "rejected");
});

scenario("recover and nackAll give everything back in order", options, async (connection, name) => {
  const channel = await connection.createChannel();
  await channel.assertQueue(name, { exclusive: true });
  for (const body of ["1", "2", "3"]) channel.sendToQueue(name, Buffer.from(body));
  const drain = async () => [await get(channel, name, {}), await get(channel, name, {}), await get(channel, name, {})];

  await drain();
  channel.nackAll(true);
  await drain();
  await channel.recover();

  assert.deepEqual((await drain()).map((message) => message.content.toString()), ["1", "2", "3"]);
});

scenario("expired messages leave the queue", options, async (connection, name) => {
  const channel = await connection.createChannel();
  await channel.assertQueue(`${name}-dead`, { exclusive: true });
  await channel.assertQueue(name, {
    exclusive: true,
    messageTtl: 60,
    deadLetterExchange: "",
    deadLetterRoutingKey: `${name}-dead`,
  });

  channel.sendToQueue(name, Buffer.from("queue"));
  channel.sendToQueue(name, Buffer.from("message"), { expiration: 30 });

  const dead = [await get(channel, `${name}-dead`), await get(channel, `${name}-dead`)];
  const byBody = Object.fromEntries(dead.map((m) => [m.content.toString(), m.properties.headers["x-death"][0]]));
  assert.equal(byBody.message["original-expiration"], "30");
  assert.equal(byBody.queue["original-expiration"], undefined);
});

scenario("priorities reorder", options, async (connection, name) => {
  const channel = await connection.createChannel();
  await channel.assertQueue(name, { exclusive: true, maxPriority: 10 });
  for (const priority of [2, 10, 5]) channel.sendToQueue(name, Buffer.from(String(priority)), { priority });

  const order = [];
  for (let taken = 0; taken < 3; taken++) order.push((await get(channel, name)).content.toString());

  assert.deepEqual(order, ["10", "5", "2"]);
});

scenario("a delayed message waits", delays, async (connection, name) => {
  const channel = await connection.createChannel();
  await channel.assertExchange(name, "x-delayed-message", { autoDelete: true, arguments: { "x-delayed-type": "fanout" } });
  await channel.assertQueue(name, { exclusive: true });
  await channel.bindQueue(name, name, "");
  const inbox = collect();
  await channel.consume(name, inbox.take, { noAck: true });
  const started = Date.now();

  channel.publish(name, "", Buffer.from("later"), { headers: { "x-delay": 400 } });
  channel.publish(name, "", Buffer.from("sooner"), { headers: { "x-delay": 150 } });

  assert.equal((await inbox.next()).content.toString(), "sooner");
  assert.ok(Date.now() - started >= 149);
  assert.equal((await inbox.next()).content.toString(), "later");
  assert.ok(Date.now() - started >= 399);
});

scenario("deleting a queue cancels its consumer with null", options, async (connection, name) => {
  const channel = await connection.createChannel();
  await channel.assertQueue(name);
  const inbox = collect();
  await channel.consume(name, inbox.take);

  await channel.deleteQueue(name);

  assert.equal(await inbox.next(), null);
});

scenario("a second exclusive consumer is refused on its channel only", options, async (connection, name) => {
  const [first, second] = [await connection.createChannel(), await connection.createChannel()];
  await first.assertQueue(name, { exclusive: true });
  await first.consume(name, () => {}, { exclusive: true });
  const failed = once(second, "error");

  await assert.rejects(second.consume(name, () => {}), /403/);

  assert.equal((await failed)[0].code, 403);
  assert.ok(await first.checkQueue(name));
});

scenario("many channels opened at once all work", options, async (connection) => {
  const channels = await Promise.all(Array.from({ length: 200 }, () => connection.createChannel()));

  const queues = await Promise.all(channels.map((channel) => channel.assertQueue("", { exclusive: true })));

  assert.equal(new Set(queues.map(({ queue }) => queue)).size, 200);
});

scenario("field values keep their types", options, async (connection, name) => {
  const channel = await connection.createChannel();
  await channel.assertQueue(name, { exclusive: true });
  const headers = {
    yes: true,
    small: 100,
    big: 2 ** 40,
    negative: -129,
    real: 0.25,
    text: "ü",
    nothing: null,
    list: [1, "two", { three: 3 }],
    bytes: Buffer.from([0, 255]),
    when: { "!": "timestamp", value: 1700000000 },
  };

  channel.sendToQueue(name, Buffer.from("x"), { headers });

  assert.deepEqual({ ...(await get(channel, name)).properties.headers }, headers);
});

test("a wrong password is refused with 403", options, async () => {
  await assert.rejects(amqp.connect(url.replace("guest@", "wrong@")), /403.*ACCESS.REFUSED/s);
});

test("a heartbeat keeps a silent connection", options, async () => {
  // Where the machine stands still this process sends no heartbeats either, and is cut off with right.
  for (let attempt = 1; ; attempt++) {
    const gap = longestGap();
    try {
      const connection = await amqp.connect(`${url}?heartbeat=1`);
      connection.on("error", () => {});
      await pause(3500);
      await (await connection.createChannel()).assertQueue("", { exclusive: true });
      await connection.close();
      return;
    } catch (error) {
      if (gap() < 1000 || attempt === 5) throw error;
    } finally {
      gap();
    }
  }
});

/** Looks at the clock ten times a second; the function that is returned stops that and says how long it did not get to. */
function longestGap() {
  let [last, longest] = [performance.now(), 0];
  const look = () => {
    const now = performance.now();
    [last, longest] = [now, Math.max(longest, now - last)];
  };
  const timer = setInterval(look, 100);
  return () => {
    clearInterval(timer);
    look();
    return longest;
  };
}

test("a client that reconnects after a kill finds its messages", ownBroker, async () => {
  const program = await new Program().start();
  try {
    const first = await amqp.connect(program.url);
    first.on("error", () => {});
    const closed = new Promise((resolve) => first.on("close", resolve));
    const channel = await first.createConfirmChannel();
    channel.on("error", () => {});
    await channel.assertExchange("work", "direct", { durable: true });
    await channel.assertQueue("work", { durable: true });
    await channel.bindQueue("work", "work", "k");
    for (let number = 0; number < 100; number++) {
      channel.publish("work", "k", Buffer.from(String(number)), { persistent: true });
    }
    await channel.waitForConfirms();

    await program.restart();
    await closed;

    const second = await amqp.connect(program.url);
    const again = await second.createChannel();
    await again.checkExchange("work");
    const inbox = collect();
    await again.consume("work", inbox.take, { noAck: true });
    for (let number = 0; number < 100; number++) {
      assert.equal((await inbox.next()).content.toString(), String(number));
    }
    await second.close();
  } finally {
    assert.equal(await program.end("SIGTERM"), 0);
  }
});
