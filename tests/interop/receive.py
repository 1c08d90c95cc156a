"""The receiver of RabbitMQ's first tutorial, as it stands there but for the broker's URL.

https://www.rabbitmq.com/tutorials/tutorial-one-python declares a quorum queue today.
"""

import os

import pika

connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost")))
channel = connection.channel()

channel.queue_declare(queue="hello", durable=True, arguments={"x-queue-type": "quorum"})


def callback(ch, method, properties, body):
    print(f" [x] Received {body}")


channel.basic_consume(queue="hello", auto_ack=True, on_message_callback=callback)

print(" [*] Waiting for messages. To exit press CTRL+C")
channel.start_consuming()
