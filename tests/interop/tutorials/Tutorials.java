// RabbitMQ's tutorials in Java, with its own client:
// java Tutorials rpc_client|rpc_server|new_task|worker|emit_log|receive_logs [TEXT]
// https://www.rabbitmq.com/tutorials/tutorial-six-java

import com.rabbitmq.client.AMQP.BasicProperties;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.DeliverCallback;
import com.rabbitmq.client.MessageProperties;
import java.nio.charset.StandardCharsets;
import java.util.Map;
import java.util.concurrent.CompletableFuture;

public class Tutorials {
    static Channel channel;

    static void durable(String queue) throws Exception {
        channel.queueDeclare(queue, true, false, false, Map.of("x-queue-type", "quorum"));
    }

    static String text(byte[] body) {
        return new String(body, StandardCharsets.UTF_8);
    }

    static long fib(int n) {
        long a = 0, b = 1;
        for (; n > 0; n--) {
            long sum = a + b;
            a = b;
            b = sum;
        }
        return a;
    }

    static void consume(String queue, boolean autoAck, DeliverCallback callback) throws Exception {
        channel.basicConsume(queue, autoAck, callback, tag -> {});
        System.out.println(" [*] Waiting");
        Thread.sleep(Long.MAX_VALUE);
    }

    public static void main(String[] args) throws Exception {
        byte[] body = args.length > 1 ? args[1].getBytes(StandardCharsets.UTF_8) : new byte[0];
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(System.getenv("AMQP_URL"));
        try (Connection connection = factory.newConnection()) {
            channel = connection.createChannel();
            switch (args[0]) {
                case "rpc_client" -> {
                    String replies = channel.queueDeclare().getQueue();
                    CompletableFuture<String> answer = new CompletableFuture<>();
                    channel.basicConsume(replies, true, (tag, reply) -> answer.complete(text(reply.getBody())), t -> {});
                    BasicProperties asked = new BasicProperties.Builder().correlationId("1").replyTo(replies).build();
                    channel.basicPublish("", "rpc_queue", asked, body);
                    System.out.println(" [.] Got " + answer.get());
                }
                case "rpc_server" -> {
                    durable("rpc_queue");
                    channel.basicQos(1);
                    consume("rpc_queue", false, (tag, request) -> {
                        BasicProperties asked = request.getProperties();
                        String answer = "";
                        try {
                            answer += fib(Integer.parseInt(text(request.getBody())));
                        } catch (RuntimeException e) {
                            System.out.println(" [.] " + e);
                        } finally {
                            BasicProperties said =
                                    new BasicProperties.Builder().correlationId(asked.getCorrelationId()).build();
                            channel.basicPublish("", asked.getReplyTo(), said, answer.getBytes(StandardCharsets.UTF_8));
                            channel.basicAck(request.getEnvelope().getDeliveryTag(), false);
                        }
                    });
                }
                case "new_task" -> {
                    durable("task_queue");
                    channel.basicPublish("", "task_queue", MessageProperties.PERSISTENT_TEXT_PLAIN, body);
                }
                case "worker" -> {
                    durable("task_queue");
                    channel.basicQos(1);
                    consume("task_queue", false, (tag, task) -> {
                        System.out.println(" [x] Received " + text(task.getBody()));
                        channel.basicAck(task.getEnvelope().getDeliveryTag(), false);
                    });
                }
                case "emit_log" -> {
                    channel.exchangeDeclare("logs", "fanout");
                    channel.basicPublish("logs", "", null, body);
                }
                case "receive_logs" -> {
                    channel.exchangeDeclare("logs", "fanout");
                    String queue = channel.queueDeclare().getQueue();
                    channel.queueBind(queue, "logs", "");
                    consume(queue, true, (tag, line) -> System.out.println(" [x] " + text(line.getBody())));
                }
                default -> throw new IllegalArgumentException(args[0]);
            }
        }
    }
}
