"""The worker of RabbitMQ's second tutorial, as it stands there but for the broker's URL and the queue's arguments.

https://www.rabbitmq.com/tutorials/tutorial-two-python; ``ARGUMENTS`` is JSON, as for ``new_task.py``.
"""

import json
import os
import time

import pika

connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost")))
channel = connection.channel()

channel.queue_declare(queue="task_queue", durable=True, arguments=json.loads(os.environ.get("ARGUMENTS", "null")))
print(" [*] Waiting for messages. To exit press CTRL+C")


def callback(ch, method, properties, body):
    print(f" [x] Received {body.decode()}")
    time.sleep(body.count(b"."))
    print(" [x] Done")
    ch.basic_ack(delivery_tag=method.delivery_tag)


channel.basic_qos(prefetch_count=1)
channel.basic_consume(queue="task_queue", on_message_callback=callback)

channel.start_consuming()
