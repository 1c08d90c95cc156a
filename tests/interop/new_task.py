"""The sender of RabbitMQ's second tutorial, as it stands there but for the broker's URL and the queue's arguments.

https://www.rabbitmq.com/tutorials/tutorial-two-python declares a quorum queue today, and a classic one before:
``ARGUMENTS`` is JSON.
"""

import json
import os
import sys

import pika

connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost")))
channel = connection.channel()

channel.queue_declare(queue="task_queue", durable=True, arguments=json.loads(os.environ.get("ARGUMENTS", "null")))

message = " ".join(sys.argv[1:]) or "Hello World!"
channel.basic_publish(
    exchange="",
    routing_key="task_queue",
    body=message,
    properties=pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent),
)
print(f" [x] Sent {message}")
connection.close()
