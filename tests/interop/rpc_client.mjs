// A call from Node.js with amqplib and JSON: node rpc_client.mjs [FUNCTION [CALL]]
// CALL is [positional, named] as JSON. It prints the result's JSON text as it came: JSON.parse() would round long numbers.
import { randomUUID } from "node:crypto";
import amqp from "amqplib";

const [name = "fib", call = "[[30],{}]"] = process.argv.slice(2);
const connection = await amqp.connect(process.env.AMQP_URL ?? "amqp://localhost");
try {
  const channel = await connection.createChannel();
  const { queue: replyTo } = await channel.assertQueue("", { exclusive: true });
  const correlationId = randomUUID();
  const reply = await new Promise((resolve, reject) => {
    channel.on("return", () => reject(new Error("there is no queue rpc_queue")));
    channel.consume(
      replyTo,
      (message) => message?.properties.correlationId === correlationId && resolve(message),
      { noAck: true },
    );
    channel.sendToQueue("rpc_queue", Buffer.from(call), {
      type: name,
      contentType: "application/json",
      correlationId,
      replyTo,
      mandatory: true,
    });
  });
  const text = reply.content.toString();
  if (reply.properties.type === "error") {
    const { type, message } = JSON.parse(text);
    console.error(`${type}: ${message}`);
    process.exitCode = 1;
  } else {
    console.log(text);
  }
} finally {
  await connection.close();
}
