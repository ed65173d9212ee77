"""Data sets, their splits, invertible preprocessing and the order in which examples come."""

from jdistill.data import policies as policies
from jdistill.data import preprocess as preprocess
from jdistill.data import samplers as samplers
from jdistill.data import zca as zca
from jdistill.data.checks import require_per_class as require_per_class
from jdistill.data.dataset import Dataset as Dataset
from jdistill.data.preprocess import Preprocessing as Preprocessing
from jdistill.data.samplers import epoch_batches as epoch_batches
from jdistill.data.sources import load as load
from jdistill.data.sources import names as names
