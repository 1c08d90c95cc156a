"""The package service."""
