"""The package message."""
