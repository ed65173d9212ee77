"""Small networks between students and teachers: regressors, exits, heads, embedding maps."""

from jdistill.models.connectors.base import connector
from jdistill.models.connectors.exits import stage_exit
from jdistill.models.connectors.maps import hint_regressor, review_fusion, review_levels
from jdistill.models.connectors.taps import read_tap, tap_pairs
from jdistill.models.connectors.tokens import square_map, token_projector
from jdistill.models.connectors.transfer import feature_transfer, last_map
from jdistill.models.connectors.vector import discriminator, embedding_heads, embedding_map, mlp_head, projector

__all__ = [
  "connector",
  "discriminator",
  "embedding_heads",
  "embedding_map",
  "feature_transfer",
  "hint_regressor",
  "last_map",
  "mlp_head",
  "projector",
  "read_tap",
  "review_fusion",
  "review_levels",
  "square_map",
  "stage_exit",
  "tap_pairs",
  "token_projector",
]
