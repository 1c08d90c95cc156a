"""amqp_rpc itself, in the project's own environment: once with prefetch 100 as the others, once with its defaults."""
