"""``python -m amqp_rpc`` is ``amqp-rpc``."""

from amqp_rpc.cli import main

main()
