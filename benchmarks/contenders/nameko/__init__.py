"""nameko's RPC over RabbitMQ (https://nameko.readthedocs.io), called with its client for programs that are no services.

For speed: 100 workers, which is its prefetch too; transient messages and no confirms on both sides. Its defaults are
persistent and confirmed, and the one place to change that for this client is `publisher_cls`. It is version 2, because
the client of version 3's last candidate (3.0.0rc11) starts a consumer for each answer, and is a few times slower.
"""
