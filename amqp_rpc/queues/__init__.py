"""The package queues."""
