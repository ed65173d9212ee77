"""Files that are either whole or absent: atomic writes, plain array archives, JSON, checksums and locks."""

from jdistill.files.amounts import format_bytes as format_bytes
from jdistill.files.amounts import parse_bytes as parse_bytes
from jdistill.files.archives import DAMAGE as DAMAGE
from jdistill.files.archives import npz_arrays as npz_arrays
from jdistill.files.archives import read_npz as read_npz
from jdistill.files.archives import write_npz as write_npz
from jdistill.files.atomic import atomic_write as atomic_write
from jdistill.files.atomic import disk_errors as disk_errors
from jdistill.files.atomic import remove_leftovers as remove_leftovers
from jdistill.files.atomic import write_bytes as write_bytes
from jdistill.files.atomic import write_text as write_text
from jdistill.files.checksums import CHECKSUMS as CHECKSUMS
from jdistill.files.checksums import sha256_arrays as sha256_arrays
from jdistill.files.checksums import sha256_file as sha256_file
from jdistill.files.checksums import verify_checksums as verify_checksums
from jdistill.files.checksums import write_checksums as write_checksums
from jdistill.files.json_files import read_json as read_json
from jdistill.files.json_files import to_jsonable as to_jsonable
from jdistill.files.json_files import write_json as write_json
from jdistill.files.locks import LOCK as LOCK
from jdistill.files.locks import Held as Held
from jdistill.files.locks import Lock as Lock
from jdistill.files.locks import take as take
from jdistill.files.records import Damaged as Damaged
from jdistill.files.records import read_record as read_record
from jdistill.files.records import write_record as write_record
