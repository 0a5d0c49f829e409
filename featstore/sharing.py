"""Stores, results and pages in a data-set repository of Hugging Face's hub."""

import hashlib
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils import tqdm

from featstore import downloads
from featstore.errors import DownloadRefused, FeatstoreError, UsageError
from featstore.places import Url
from featstore.spec import COMMITS, Spec
from featstore.store.creation import open as open_store
from featstore.store.store import Store

_NAME = re.compile(r"[A-Za-z0-9][\w.\-]*/[A-Za-z0-9][\w.\-]*")
# What lies beside a file of results and belongs to it.
_BESIDE = (".rows.npz", ".sha256", ".provenance.json")
_RESULTS = (".csv", ".json", ".parquet", ".npz", ".safetensors", ".html", ".svg", ".png", ".pdf")
CARD = "README.md"
# What else lies beside what was sent, or beside what is fetched: the client's own notes.
_OTHERS = (CARD, ".gitattributes", ".cache")
# As many files at once as the client fetches of a snapshot.
_AT_ONCE = 8
# How often a file is begun before its server is given up.
_MOST_BEGINNINGS = 5
REMEDY = "log in with `hf auth login`, see that the repository is there, and try again"


@dataclass(frozen=True)
class Pushed:
    """Result of a push: the repository's address, the commit, and the names of its files."""

    url: str
    commit: str
    names: tuple[str, ...]
    n_files: int


def push(
    things: Sequence[str | Path],
    repository: str,
    *,
    private: bool = False,
    message: str | None = None,
    revision: str | None = None,
) -> Pushed:
    """Send stores, files of results and pages to a data-set repository, in one commit.

    The repository is made if it is not there. Large files are sent one by one and counted by their
    hash: what is there already, also of a push that was killed, is not sent again, and nothing
    shows before the commit. A card (README.md) says what each store and file is.

    Arguments:
        things: complete stores on this machine, and .csv, .json, .parquet, .npz, .safetensors,
            .html and picture files; what lies beside results (rows, digest, provenance) goes along.
        repository: OWNER/NAME.
        private: make a new repository private.
        message: of the commit; by default what is sent.
        revision: the branch; by default main.

    Raises `UsageError` for what cannot be sent, `StoreIncomplete` for a store that lacks blocks,
    `DownloadRefused` where the hub does not answer or refuses.
    """
    _check_name(repository)
    if not things:
        raise UsageError("nothing to push is named; name stores and files of results")
    stores: list[Store] = []
    files: dict[str, Path] = {}
    for thing in map(Path, things):
        for name, file in _files_of(thing, stores).items():
            if name in files:
                raise UsageError(f"two things would be sent as {name}; rename one of them")
            files[name] = file
    names = tuple(dict.fromkeys(name.split("/")[0] for name in files))
    card = _card(repository, stores, [name for name in names if name in files])
    add = huggingface_hub.CommitOperationAdd
    operations = [add(name, str(file)) for name, file in sorted(files.items())]
    operations.append(add(CARD, card.encode()))
    api, source = _api(), f"{downloads.endpoint()}/datasets/{repository}"
    with _answered(repository):
        api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
        done = api.create_commit(
            repository,
            operations,
            commit_message=message or f"Add {', '.join(names)}",
            repo_type="dataset",
            revision=revision,
        )
    return Pushed(source, done.oid, names, len(operations))


def pull(
    repository: str,
    out: str | Path = ".",
    *,
    names: Sequence[str] = (),
    revision: str | None = None,
) -> list[Path]:
    """Fetch what `push` sent into the folder `out`; returns the path of each thing.

    Files that are there already are kept, so that a pull that was killed goes on; the records of a
    store come after its rows, which are missing until then. Every file is held against the hub's
    digest of it, and every store that was fetched against its checksums.

    Arguments:
        repository: OWNER/NAME.
        out: a folder of this machine.
        names: what to fetch, as the card calls it; by default all.
        revision: a branch, tag or commit.

    Raises `UsageError` for a name that is not there, `DownloadRefused` where the hub does not
    answer, refuses, or answers what no hub would, `FeatstoreError` where something arrived damaged
    or cannot be written.
    """
    _check_name(repository)
    out, began = Path(out), time.time()
    with _answered(repository):
        # One commit for all that follows.
        commit = _api().dataset_info(repository, revision=revision).sha
        entries = _api().list_repo_tree(
            repository, recursive=True, revision=commit, repo_type="dataset"
        )
        listed = {entry.path: entry for entry in entries if isinstance(entry, RepoFile)}
    for name in listed:
        if name.startswith("/") or ".." in name.split("/"):
            raise DownloadRefused(
                f"{repository} names {name!r}, outside of the folder that it is to lie in; nothing "
                "was fetched, and that repository or hub is not to be trusted"
            )
    there = dict.fromkeys(name.split("/")[0] for name in listed)
    there = [name for name in there if name not in _OTHERS]
    absent = [name for name in names if name not in there]
    if absent:
        raise UsageError(f"{repository} has no {absent[0]!r}; it has {', '.join(there) or 'none'}")
    chosen = list(names) or [name for name in there if not _is_beside(name, there)]
    wanted = {*chosen, *(name for name in there if _is_beside(name, chosen))}
    files = [file for name, file in listed.items() if name.split("/")[0] in wanted]
    with (
        _answered(repository),
        tqdm(total=len(files), desc=f"Fetching {len(files)} files", disable=None) as bar,
    ):

        def fetch(file: RepoFile) -> None:
            huggingface_hub.hf_hub_download(
                repository,
                file.path,
                repo_type="dataset",
                revision=commit,
                local_dir=out,
                endpoint=downloads.endpoint(),
                tqdm_class=_Silent,
            )
            bar.update()

        for records in (False, True):
            step = [file for file in files if (COMMITS in file.path.split("/")) == records]
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                list(pool.map(fetch, step))
    for left in out.glob(".cache/huggingface/download/**/*.incomplete"):
        # of a pull that was killed
        if left.stat().st_mtime < began:
            left.unlink(missing_ok=True)
    for file in files:
        _check_arrived(out / file.path, file)
    fetched = [out / name for name in chosen]
    for path in fetched:
        if path.is_dir() or path.suffix in (".h5", ".hdf5"):
            damages = open_store(path).verify()
            if damages:
                raise FeatstoreError(
                    f"{path} arrived damaged ({damages[0]}); delete it and pull it again"
                )
    return fetched


class _Silent(tqdm):
    """The progress of one file of many, which is not shown.

    The client goes back to a file's beginning, without end, where a server breaks off each time.
    """

    def __init__(self, *given, **more):
        super().__init__(*given, **{**more, "disable": True})
        self._begun = 1

    def update(self, n: float | None = 1) -> bool | None:
        """Note what has come, or what is to come again."""
        self._begun += (n or 0) < 0
        if self._begun > _MOST_BEGINNINGS:
            raise ConnectionError(f"it broke off {self._begun - 1} times in the midst of a file")
        return super().update(n)


@contextmanager
def _answered(repository: str) -> Iterator[None]:
    """Tell on one line what comes of a hub that fails, refuses, or answers what none would."""
    source = f"{downloads.endpoint()}/datasets/{repository}"
    try:
        with downloads.downloading(f"the repository {repository}", source, REMEDY):
            yield
    except FeatstoreError:
        raise
    except (AssertionError, AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise FeatstoreError(
                f"{error.filename or 'a file'} cannot be read or written"
                f" ({error.strerror or type(error).__name__}); choose another folder, with room"
            ) from error
        why = " ".join(str(error).split())[:200]
        raise DownloadRefused(
            f"the repository {repository} could not be fetched from {source}: its answer is not"
            f" understood ({type(error).__name__}: {why}); {REMEDY}"
        ) from error


def _check_arrived(path: Path, file: RepoFile) -> None:
    """Raise FeatstoreError where a file is not what the hub's listing says that it is.

    Large files are listed with their SHA-256, all others with git's own digest, SHA-1 of the size
    and the bytes.
    """
    size = path.stat().st_size if path.is_file() else None
    why = f"{size} bytes, and {file.size} are listed"
    if size == file.size:
        with path.open("rb") as opened:
            if file.lfs:
                digest, listed = hashlib.file_digest(opened, "sha256"), file.lfs.sha256
            else:
                digest = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
                digest.update(opened.read())
                listed = file.blob_id
        if digest.hexdigest() == listed:
            return
        why = f"{digest.name.upper()} {digest.hexdigest()[:12]}, and {str(listed)[:12]} is listed"
    raise FeatstoreError(f"{path} arrived damaged ({why}); delete it and pull it again")


def _api() -> huggingface_hub.HfApi:
    return huggingface_hub.HfApi(endpoint=downloads.endpoint())


def _check_name(repository: str) -> None:
    if not _NAME.fullmatch(repository):
        raise UsageError(f"{repository!r} is no name of a repository; give OWNER/NAME")


def _is_beside(name: str, others: Sequence[str]) -> bool:
    """Return whether a file belongs to another one of these."""
    return any(name == f"{other}{end}" for other in others for end in _BESIDE)


def _files_of(thing: Path, stores: list[Store]) -> dict[str, Path]:
    """Return the files of a store or of results by their names; a store is added to `stores`."""
    if thing.suffix.lower() in _RESULTS and thing.is_file():
        beside = [thing.with_name(f"{thing.name}{end}") for end in _BESIDE]
        return {path.name: path for path in (thing, *beside) if path.is_file()}
    store = open_store(thing)
    if isinstance(store.path, Url):
        raise UsageError(f"{thing} lies at a URL; convert it to a store on this machine first")
    for split in store.spec.splits:
        store.require_complete(split.name)
    stores.append(store)
    if thing.is_file():
        return {thing.name: thing}
    below = sorted(path for path in thing.rglob("*") if path.is_file() and not path.is_symlink())
    return {f"{thing.name}/{path.relative_to(thing).as_posix()}": path for path in below}


def _card(repository: str, stores: Sequence[Store], results: Sequence[str]) -> str:
    """Return the text of the card: what each store holds, and how all of it is fetched."""
    lines = ["---", "tags:", "- featstore", "- features", "---", "", f"# {repository}", ""]
    lines += ["Features of pretrained networks, and what linear probes make of them.", ""]
    lines += ["    pip install featstore-probe", f"    featstore pull {repository} --out .", ""]
    for store in stores:
        lines += [f"## {Path(str(store.path)).name}", "", *_told(store.spec), ""]
    alone = [name for name in results if name not in {Path(str(s.path)).name for s in stores}]
    shown = [name for name in alone if not _is_beside(name, alone)]
    if shown:
        lines += ["## Results", "", *(f"* `{name}`" for name in shown), ""]
    return "\n".join(lines)


def _told(spec: Spec) -> list[str]:
    splits = ", ".join(f"{split.name} ({split.n_rows:,})" for split in spec.splits)
    facts = {
        "network": spec.backbone,
        "weights": spec.weights,
        "transform": spec.transform,
        "data": spec.dataset,
        "rows": f"{splits}, {spec.rows}",
        "labels": f"{spec.n_classes:,} classes" if spec.classes else ", ".join(spec.targets),
        "numbers": f"{spec.dtype}, computed in {spec.precision}",
        "digest": spec.digest(),
    }
    lines = ["| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in facts.items()]
    lines += ["", "| tap | features | pooling |", "|---|--:|---|"]
    return [*lines, *(f"| {tap.name} | {tap.dim:,} | {tap.pooling} |" for tap in spec.taps)]


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", r"\|")[:300]
