"""Who may call what, by the key that signs a message: `python -m examples.authorized`."""

from amqp_rpc import Client, NotAuthorized, Server, Service

service = Service("till", authorize=lambda sender: sender.key in ("web", "office"))


@service.rpc
def charge(order: str) -> str:
    """Take the money."""
    return f"{order} is charged"


@service.rpc(authorize=lambda sender: sender.key == "office")
def refund(order: str) -> str:
    """Give it back."""
    return f"{order} is refunded"


#: Each program has its own key, in a file; the server's file has all of them. `openssl rand -hex 32` makes one.
WEB = {"web": "5c0f7b8e1d6a4392b0e9f3c1a7d85e62"}
OFFICE = {"office": "a91b3d7f5e2c48060f8d6b4a2c0e9173"}


def main() -> None:
    """Call as two programs, each with its own key."""
    with Server(service, keys=WEB | OFFICE), Client(keys=WEB) as web, Client(keys=OFFICE) as office:
        print(web.call("till.charge", "order 1174"))
        print(office.call("till.refund", "order 1174"))
        try:
            web.call("till.refund", "order 1175")
        except NotAuthorized as error:
            print(f"refused: {error}")


if __name__ == "__main__":
    main()
