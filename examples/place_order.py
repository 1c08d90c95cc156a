"""Place orders: ``python -m examples.place_order``, once the services of ``examples/orders.py`` have run."""

from amqp_rpc import Client
from examples.orders import Order

with Client() as client:
    client.publish("orders.eu.placed", Order(1, "teapot", 2, region="eu"))
    client.publish("orders.us.placed", Order(2, "teapot", 5, region="us"))
    client.publish("orders.us.placed", Order(3, "unicorn", 1, region="us"))
print("3 orders placed")
