"""The client and the server of RabbitMQ's RPC tutorial, in pika alone.

They follow https://www.rabbitmq.com/tutorials/tutorial-six-python line by line.

For speed: prefetch 100 (the tutorial has 1), and the client can have several calls in flight.
"""
