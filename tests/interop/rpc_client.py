"""The call of RabbitMQ's RPC tutorial in plain pika: of the server it knows nothing but the queue."""

import os
import sys
import uuid

import pika

number = sys.argv[1] if len(sys.argv) > 1 else "30"
connection = pika.BlockingConnection(pika.URLParameters(os.environ.get("AMQP_URL", "amqp://localhost")))
channel = connection.channel()
answers = channel.queue_declare(queue="", exclusive=True).method.queue
identity = str(uuid.uuid4())
got = []
channel.basic_consume(answers, lambda _c, _m, p, body: p.correlation_id == identity and got.append(body), auto_ack=True)

print(f" [x] Requesting fib({number})")
properties = pika.BasicProperties(reply_to=answers, correlation_id=identity)
channel.basic_publish(exchange="", routing_key="rpc_queue", properties=properties, body=number.encode())
while not got:
    connection.process_data_events(time_limit=None)
print(f" [.] Got {got[0].decode()}")
connection.close()
