"""Small networks between students and teachers: regressors, exits, heads, embedding maps."""

from jdistill.models.connectors.base import connector
from jdistill.models.connectors.vector import embedding_map, mlp_head

__all__ = ["connector", "embedding_map", "mlp_head"]
