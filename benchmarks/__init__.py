"""Programs that measure amqp_rpc; ``make bench`` runs them."""
