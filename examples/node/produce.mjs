// An example producer of `clickstream` in Node: somebody bought something.
//
//   npm install --prefix examples/node
//   node examples/node/produce.mjs --bootstrap 127.0.0.1:9092 --customer 42 --item 1029743 --price 3.99
//
// It ends when the broker has the event, and says where.
import { randomUUID } from "node:crypto";
import { parseArgs } from "node:util";
import kafkajs from "kafkajs";

const { values: args } = parseArgs({
  options: {
    bootstrap: { type: "string", default: "127.0.0.1:9092" },
    prefix: { type: "string", default: "" }, // PULSEGRAPH_KAFKA_PREFIX of the deployment
    customer: { type: "string" },
    item: { type: "string" },
    price: { type: "string" },
  },
});
const price = Number(args.price);
if (!args.customer || !args.item || !Number.isFinite(price)) {
  console.error("--customer ID, --item ID and --price NUMBER are needed");
  process.exit(2);
}
const kafka = new kafkajs.Kafka({ clientId: "shop", brokers: args.bootstrap.split(",") });
const producer = kafka.producer({
  createPartitioner: kafkajs.Partitioners.DefaultPartitioner, // murmur2, like Java; the legacy one is not
  allowAutoTopicCreation: false,
});
const event = {
  event: "purchase",
  event_id: randomUUID(), // of the event: who sends it again sends the same id, and it counts once
  event_ts_ms: Date.now(),
  item_id: args.item,
  price,
  quantity: 1,
};
await producer.connect();
try {
  const [sent] = await producer.send({
    topic: args.prefix + "clickstream",
    acks: -1,
    messages: [{ key: args.customer, value: JSON.stringify(event) }],
  });
  console.log(`${sent.topicName} partition ${sent.partition} offset ${sent.baseOffset}`);
} finally {
  await producer.disconnect();
}
