"""Send dataclasses, enums and dates, and catch an exception class of your own.

Run ``amqp-rpc serve examples.shop`` in one terminal, and ``python -m examples.own_errors`` in another.
"""

from datetime import UTC, datetime

from amqp_rpc import Client, InvalidArguments
from examples.shop import Order, OutOfStock, Size, buy


def main() -> None:
    """Buy some cups, and too many teapots."""
    now = datetime(2026, 1, 31, 12, 30, tzinfo=UTC)
    with Client() as client:
        receipt = client.call(buy, Order("cup", 3, Size.SMALL, ordered_at=now))
        print("total:", receipt.total)
        print("arrives:", receipt.arrives_at.isoformat())
        print("size:", receipt.order.size)

        try:
            client.call(buy, Order("teapot", 5, Size.LARGE, ordered_at=now))
        except OutOfStock as error:
            print("out of stock:", error, "| item:", error.item, "| left:", error.left)

        # By name, the same call can be made of plain maps, as other languages do.
        try:
            client.call("shop.buy", {"item": "cup", "quantity": "three", "size": "small", "ordered_at": now})
        except InvalidArguments as error:
            print("wrong arguments:", error)


if __name__ == "__main__":
    main()
