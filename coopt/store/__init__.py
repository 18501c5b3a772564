"""A run's directory, its journal, its checkpoints, a cache: bytes and records, never models.

`checkpoint` is imported where arrays are saved, since it brings jax and Orbax with it.
"""

from coopt.store.cache import Cache as Cache
from coopt.store.failures import Busy as Busy
from coopt.store.failures import Corrupt as Corrupt
from coopt.store.failures import DiskFull as DiskFull
from coopt.store.failures import NewerFormat as NewerFormat
from coopt.store.failures import Repeated as Repeated
from coopt.store.failures import StoreFailure as StoreFailure
from coopt.store.failures import Unwritable as Unwritable
from coopt.store.identity import finite as finite
from coopt.store.identity import identity as identity
from coopt.store.journal import Journal as Journal
from coopt.store.repair import repair as repair
from coopt.store.run import Run as Run
from coopt.store.run import create as create
from coopt.store.run import resume as resume
from coopt.store.saved import Saved as Saved
from coopt.store.saved import list_runs as list_runs
from coopt.store.saved import open_run as open_run
from coopt.store.stop import Stopped as Stopped
from coopt.store.stop import leave as leave
from coopt.store.stop import stopping as stopping
