// Emit events to Stagekeeper from Node: `npm install kafkajs@2.2.4`, then `node emit.mjs BROKERS < events.jsonl`.
// One event a line, each a CloudEvent as docs/events.md has them. `node emit.mjs BROKERS recommendations` prints what
// Stagekeeper recommends, and ends where the topic ends.
import { createInterface } from "node:readline";
import { Kafka, CompressionTypes, logLevel } from "kafkajs";

const TOPIC_OF_TYPE = {
  "stagekeeper.action.decided.v1": "agent.decisions",
  "stagekeeper.action.executed.v1": "agent.outcomes",
  "stagekeeper.action.undone.v1": "agent.outcomes",
  "stagekeeper.action.impact.v1": "agent.outcomes",
  "stagekeeper.review.resolved.v1": "agent.reviews",
  "stagekeeper.policy.changed.v1": "agent.policy-changes",
};
const RECOMMENDATIONS = "agent.recommendations";

const [brokers, what] = process.argv.slice(2);
const kafka = new Kafka({ clientId: "node-example", brokers: brokers.split(","), logLevel: logLevel.ERROR });

async function emit() {
  const messages = {};
  for await (const line of createInterface({ input: process.stdin })) {
    const event = JSON.parse(line);
    (messages[TOPIC_OF_TYPE[event.type]] ??= []).push({
      key: event.subject,
      value: line,
      headers: { "content-type": "application/cloudevents+json; charset=UTF-8" },
    });
  }
  const topicMessages = Object.entries(messages).map(([topic, some]) => ({ topic, messages: some }));
  const producer = kafka.producer({ idempotent: true, maxInFlightRequests: 1 });
  await producer.connect();
  await producer.sendBatch({ topicMessages, acks: -1, compression: CompressionTypes.GZIP });
  await producer.disconnect();
}

async function print() {
  const admin = kafka.admin();
  await admin.connect();
  const [{ high }] = await admin.fetchTopicOffsets(RECOMMENDATIONS);
  await admin.disconnect();
  if (high === "0") return;
  const consumer = kafka.consumer({ groupId: `node-example-${process.pid}` });
  await consumer.connect();
  await consumer.subscribe({ topic: RECOMMENDATIONS, fromBeginning: true });
  await new Promise((end, failed) => {
    consumer.on(consumer.events.CRASH, ({ payload }) => failed(payload.error));
    consumer.run({
      eachMessage: async ({ message }) => {
        console.log(message.value.toString());
        if (BigInt(message.offset) + 1n >= BigInt(high)) end();
      },
    });
  });
  await consumer.disconnect();
}

await (what === "recommendations" ? print() : emit());
