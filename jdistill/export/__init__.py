"""Distilled sets as files: the archive with its card and checksums, and formats of others."""

from jdistill.export.artefact import ARRAYS as ARRAYS
from jdistill.export.artefact import FILES as FILES
from jdistill.export.artefact import load as load
from jdistill.export.artefact import save as save
from jdistill.export.distilled_set import DistilledSet as DistilledSet
from jdistill.export.distilled_set import artefact_sha256 as artefact_sha256
from jdistill.export.distilled_set import whole as whole
from jdistill.export.formats import to_mtt as to_mtt
from jdistill.export.formats import to_png_folder as to_png_folder
from jdistill.export.formats import to_torch as to_torch
