"""Order processing: who places an order knows nobody of stock, shipping and mail, which follow what happens to it.

Run ``amqp-rpc serve examples.orders:stock examples.orders:shipping examples.orders:mail``, or each of them on a machine
of its own, as often as you like: the replicas of a service share its events. ``python -m examples.place_order`` places
one. A real shop keeps its stock, and what was done already, in a database: here each process has its own shelf.
"""

from dataclasses import dataclass

from amqp_rpc import Client, Event, Reject, Service


@dataclass
class Order:
    """What somebody wants."""

    id: int
    item: str
    quantity: int
    region: str


stock = Service("stock")
shipping = Service("shipping")
mail = Service("mail")

# It connects at the first event that is published.
client = Client()
_left = {"teapot": 3, "cup": 100}


@stock.subscribe("orders.*.placed", retries=3)
def reserve(order: Order) -> None:
    """Take it from the shelf."""
    if order.item not in _left:
        raise Reject(f"there is no {order.item}")  # a dead letter in events.stock.reserve.dead, and no retry
    enough = _left[order.item] >= order.quantity
    if enough:
        _left[order.item] -= order.quantity
    client.publish(f"orders.{order.region}.{'reserved' if enough else 'refused'}", order)


@shipping.subscribe("orders.*.reserved")
def ship(order: Order) -> None:
    """Put it into a parcel. It may be told twice, as every handler: a real one looks first whether it was shipped."""
    print(f"shipping: {order.quantity} {order.item} for order {order.id}", flush=True)
    client.publish(f"orders.{order.region}.shipped", order)


@mail.subscribe("orders.#")
def write(order: Order, event: Event) -> None:
    """Tell the customer of everything that happens."""
    print(f"mail: order {order.id} was {event.topic.rpartition('.')[2]}", flush=True)
