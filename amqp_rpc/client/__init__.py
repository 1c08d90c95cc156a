"""The package client."""
