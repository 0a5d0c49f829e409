__version__: str

from . import errors as errors
from . import probe as probe
from .extraction.run import Extraction as Extraction
from .extraction.run import extract as extract
from .spec import Spec as Spec
from .spec import Split as Split
from .spec import Tap as Tap
from .store.base import Damage as Damage
from .store.catalog import (
    Abandoned as Abandoned,
)
from .store.catalog import (
    Unusable as Unusable,
)
from .store.catalog import (
    abandoned as abandoned,
)
from .store.catalog import (
    collect as collect,
)
from .store.catalog import (
    default_path as default_path,
)
from .store.catalog import (
    newest_complete as newest_complete,
)
from .store.catalog import (
    store_root as store_root,
)
from .store.catalog import (
    stores as stores,
)
from .store.catalog import (
    survey as survey,
)
from .store.creation import (
    FORMATS as FORMATS,
)
from .store.creation import (
    create as create,
)
from .store.creation import (
    finish as finish,
)
from .store.creation import (
    open as open,
)
from .store.creation import (
    open_or_create as open_or_create,
)
from .store.creation import (
    remove as remove,
)
from .store.exchange import export as export
from .store.exchange import import_arrays as import_arrays
from .store.store import Store as Store
from .store.transfer import convert as convert
from .store.transfer import merge as merge
