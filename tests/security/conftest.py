"""Servers are those of tests/serving."""

from tests.serving.servers import own_index, server, toy, toy_model

__all__ = ["own_index", "server", "toy", "toy_model"]
