"""Order processing: stock, shipping and mail follow each order by its events. Its publisher knows none of them.

Run ``amqp-rpc serve examples.orders:stock examples.orders:shipping examples.orders:mail``, or each of them on a machine
of its own, in any number: the replicas of a service share its events. ``python -m examples.place_order`` places
orders. A real shop keeps its stock, and a record of finished work, in a database: here each process has its own shelf.
"""

from dataclasses import dataclass

from amqp_rpc import Client, Event, Reject, Service


@dataclass
class Order:
    """An order of a customer."""

    id: int
    item: str
    quantity: int
    region: str


stock = Service("stock")
shipping = Service("shipping")
mail = Service("mail")

# It connects when the first event is published.
client = Client()
_left = {"teapot": 3, "cup": 100}


@stock.subscribe("orders.*.placed", retries=3)
def reserve(order: Order) -> None:
    """Take the item from the shelf."""
    if order.item not in _left:
        raise Reject(f"there is no {order.item}")  # to events.stock.reserve.dead, without a retry
    enough = _left[order.item] >= order.quantity
    if enough:
        _left[order.item] -= order.quantity
    client.publish(f"orders.{order.region}.{'reserved' if enough else 'refused'}", order)


@shipping.subscribe("orders.*.reserved")
def ship(order: Order) -> None:
    """Put it into a parcel. A handler may run twice: a real one first checks whether the order was shipped."""
    print(f"shipping: {order.quantity} {order.item} for order {order.id}", flush=True)
    client.publish(f"orders.{order.region}.shipped", order)


@mail.subscribe("orders.#")
def write(order: Order, event: Event) -> None:
    """Write to the customer about each step."""
    print(f"mail: order {order.id} was {event.topic.rpartition('.')[2]}", flush=True)
