"""One configuration per experiment."""
