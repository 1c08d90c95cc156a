// RabbitMQ's tutorials in JavaScript, with amqplib:
// node tutorials.mjs rpc_client|rpc_server|new_task|worker|emit_log|receive_logs [TEXT]
// https://www.rabbitmq.com/tutorials/tutorial-six-javascript
import amqp from "amqplib";

const [command, text = ""] = process.argv.slice(2);
const connection = await amqp.connect(process.env.AMQP_URL);
const channel = await connection.createChannel();
const durable = (queue) => channel.assertQueue(queue, { durable: true, arguments: { "x-queue-type": "quorum" } });
const exclusive = async () => (await channel.assertQueue("", { exclusive: true })).queue;
const forever = () => new Promise(() => console.log(" [*] Waiting"));

function fib(n) {
  let [a, b] = [0, 1];
  for (; n > 0; n--) [a, b] = [b, a + b];
  return a;
}

const commands = {
  async rpc_client() {
    const replyTo = await exclusive();
    const answer = new Promise((resolve) => {
      channel.consume(replyTo, (m) => m.properties.correlationId === "1" && resolve(m.content), { noAck: true });
    });
    channel.sendToQueue("rpc_queue", Buffer.from(text), { correlationId: "1", replyTo });
    console.log(` [.] Got ${await answer}`);
  },
  async rpc_server() {
    await durable("rpc_queue");
    channel.prefetch(1);
    await channel.consume("rpc_queue", (request) => {
      const answer = fib(parseInt(request.content.toString()));
      const { replyTo, correlationId } = request.properties;
      channel.sendToQueue(replyTo, Buffer.from(answer.toString()), { correlationId });
      channel.ack(request);
    });
    await forever();
  },
  async new_task() {
    await durable("task_queue");
    channel.sendToQueue("task_queue", Buffer.from(text), { persistent: true });
  },
  async worker() {
    await durable("task_queue");
    channel.prefetch(1);
    await channel.consume("task_queue", (task) => {
      console.log(` [x] Received ${task.content}`);
      channel.ack(task);
    });
    await forever();
  },
  async emit_log() {
    await channel.assertExchange("logs", "fanout", { durable: false });
    channel.publish("logs", "", Buffer.from(text));
  },
  async receive_logs() {
    await channel.assertExchange("logs", "fanout", { durable: false });
    const queue = await exclusive();
    await channel.bindQueue(queue, "logs", "");
    await channel.consume(queue, (line) => console.log(` [x] ${line.content}`), { noAck: true });
    await forever();
  },
};
await commands[command]();
await channel.close();
await connection.close();
