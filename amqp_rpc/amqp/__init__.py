"""The package amqp."""
