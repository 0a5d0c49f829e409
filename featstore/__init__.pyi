__version__: str

from . import errors as errors, probe as probe
from .extraction.run import Extraction as Extraction, extract as extract
from .sharing import pull as pull, push as push
from .spec import Spec as Spec, Split as Split, Tap as Tap
from .store.catalog import (
    abandoned as abandoned,
    collect as collect,
    newest_complete as newest_complete,
    store_root as store_root,
    stores as stores,
)
from .store.creation import (
    FORMATS as FORMATS,
    create as create,
    finish as finish,
    open as open,
    open_or_create as open_or_create,
    remove as remove,
)
from .store.exchange import export as export, import_arrays as import_arrays
from .store.staging import RowWriter as RowWriter, writer as writer
from .store.store import Store as Store
from .store.transfer import convert as convert, merge as merge
