"""Builders of federated methods."""
