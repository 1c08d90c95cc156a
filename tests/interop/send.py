"""The sender of RabbitMQ's first tutorial, as it stands there but for the broker's URL and the queue's arguments.

https://www.rabbitmq.com/tutorials/tutorial-one-python declares a quorum queue today.
"""

import os

import pika

connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost")))
channel = connection.channel()

channel.queue_declare(queue="hello", durable=True, arguments={"x-queue-type": "quorum"})

channel.basic_publish(exchange="", routing_key="hello", body="Hello World!")
print(" [x] Sent 'Hello World!'")
connection.close()
