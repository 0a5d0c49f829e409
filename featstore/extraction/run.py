"""Extraction: each row through the backbone once, its features into a store, block by block."""

import contextlib
import io
import logging
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from featstore import places
from featstore.data import own
from featstore.data.columns import Columns
from featstore.data.maps import Maps
from featstore.data.rows import MapStyle, Unreadable
from featstore.errors import DatasetError, SpecMismatch, UsageError, suggesting
from featstore.extraction import inference, inputs, pipeline
from featstore.extraction.inference import Inference
from featstore.extraction.inputs import Inputs
from featstore.extraction.loading import Encoder, Job, Workers, check_decoder, cores
from featstore.extraction.pipeline import Work
from featstore.extraction.ranks import Meeting, Ranks, Tally
from featstore.extraction.request import Request
from featstore.factories import is_named
from featstore.models import own as own_models
from featstore.notices import Notice, distinct, of_remarks
from featstore.places import place
from featstore.spec import IDS, PENULTIMATE, Spec
from featstore.store import catalog, creation
from featstore.store.base import FOLDER, SEQUENCE, Block, Progress, no_progress
from featstore.store.blocks import decode_ids, width
from featstore.store.store import Store
from featstore.store.transfer import SplitRows

BATCH_SIZE = 64
# Rows of one's own that may be passed twice, to see whether the network is random, in any case; of
# many rows a hundredth may.
_SPARE = 8
_LIBRARIES = ("torch", "torchvision", "timm", "pillow")

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Extraction:
    """Result of one call: rows passed through the model, and rows in the store before.

    Each view of a row counts. `reused` says that the store was complete and intact; `seconds` is
    the time of the whole call; `notes` tells what a person should know of the weights;
    `notices` what was left out of the data or read otherwise than it is, which the store keeps too;
    `unreadable` are the rows that were left out. Of several ranks each tells its own `images_done`,
    and the others may still be at work.
    """

    store: Store
    images_done: int
    images_reused: int
    seconds: float
    reused: bool
    notes: tuple[str, ...] = ()
    notices: tuple[Notice, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    modality: str = "image"
    ranks: Ranks = field(default_factory=Ranks)


@suggesting
def extract(
    model: str | torch.nn.Module | Callable[..., object],
    dataset: str | MapStyle | Mapping[str, MapStyle],
    *,
    weights: str | Path | None = None,
    weights_key: str | None = None,
    weights_prefix: str | None = None,
    pretrained: bool = True,
    image_size: int | None = None,
    transform: str | Path | Mapping[str, Any] | Callable[..., object] | None = None,
    trust: str = "none",
    weights_dtype: str = "float32",
    device_map: str | None = None,
    prompt: str | None = None,
    long_texts: str = "truncate",
    taps: Sequence[str] = (PENULTIMATE,),
    pool: str | Sequence[str] | Mapping[str, str] | None = None,
    data_dir: str | Path | None = None,
    columns: Columns | None = None,
    limit: int | None = None,
    bit_depth: int | None = None,
    splits: Sequence[str] = ("train", "test"),
    on_error: str = "raise",
    views: int = 1,
    augment: str | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    format: str = "zarr",
    codec: str | None = None,
    dtype: str = "float16",
    rows: str = "items",
    maps: Maps | None = None,
    overwrite: bool = False,
    device: str = "auto",
    precision: str = "auto",
    compile: bool | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    decode: str = "host",
    name: str | None = None,
    version: str | None = None,
    ids: Mapping[str, Sequence[str]] | Sequence[str] | None = None,
    progress: Progress | bool | None = None,
) -> Extraction:
    """Store the features of `dataset` under `model`; go on where a store stopped.

    `featstore.extraction.request.Request` explains the arguments. Without `out` the store lies
    under the store root, named by what it holds. A store of the same spec is reused: every checksum
    is checked, and only blocks that are missing or damaged are computed, with the batch size they
    were begun with, hence with the same bits as in one go.

    Under `torchrun` or `srun` each process computes its share of the blocks and writes them itself;
    the store has the same bits as one process makes. A process that dies costs the blocks that it
    had not committed: the same call, by any number of processes, completes the store.

    Calls `progress("blocks", ...)` while it checks, `progress("images", done, total, ...)`, or
    "texts" or "tensors", while it computes: those of all ranks, the others' as far as they are
    committed. Without a callback a bar shows them in a terminal or a notebook, after a second;
    True writes lines elsewhere, too, and False shows nothing.

    Raises `UsageError`, `BackboneError`, `DatasetError`, `DownloadRefused`; `SpecMismatch` where
    `out` holds something else; `FeatureError` naming a row whose features are not finite or exceed
    float16; `FeatstoreError` where a decoding process died. Committed blocks stay in any case.
    """
    given = dict(locals())
    del given["progress"]
    with _shown(progress) as told:
        return _extracted(Request(**given), told)


@contextlib.contextmanager
def _shown(progress: Progress | bool | None, pause: float = 1.0) -> Iterator[Progress]:
    """Yield the callback that `progress` stands for; what it shows is wiped when the work is done.

    None is True in a terminal or a notebook, and else False.
    True is a bar of the stage that goes on, drawn every `pause` seconds, or where there is no
    screen a line every ten times as long. False is `no_progress`, and a callback is itself.
    """
    on_screen = getattr(sys.stderr, "isatty", bool)() or "ipykernel" in sys.modules
    if progress is None:
        progress = on_screen and Ranks.of().rank == 0
    if progress is not True:
        yield progress or no_progress
        return
    from tqdm.auto import tqdm

    lock, over = threading.Lock(), threading.Event()
    # with a delay a bar is not shown when it is made
    how = {"delay": 1, "leave": False, "dynamic_ncols": on_screen}
    how["file"] = None if on_screen else io.StringIO()
    bar = tqdm(desc="starting", bar_format="{desc} {elapsed}", **how)

    def draw() -> None:
        # a thread does it, so that what tells nothing for long is seen, too
        while not over.wait(pause if on_screen or bar.n == 0 else 10 * pause):
            with lock:
                if on_screen:
                    bar.refresh()
                    bar.delay = 0  # it is to be wiped
                elif not (over.is_set() or bar.disable):
                    print(bar, file=sys.stderr, flush=True)

    def end() -> None:
        bar.total = bar.n  # a stage of fewer units than it said has not failed
        bar.close()

    def told(stage: str, done: int, total: int, **facts: Any) -> None:
        nonlocal bar
        with lock:
            if (stage, total) != (bar.desc, bar.total) or done < bar.n:
                end()
                bar = tqdm(desc=stage, total=total, initial=done, unit=f" {stage}", **how)
            words = [f"{name} {fact}" for name, fact in facts.items() if fact]
            bar.set_postfix_str(", ".join(words), refresh=False)
            bar.n = done

    threading.Thread(target=draw, name="featstore-progress", daemon=True).start()
    try:
        yield told
    finally:
        over.set()
        with lock:
            end()


def _extracted(request: Request, progress: Progress) -> Extraction:
    started = time.perf_counter()
    ranks = Ranks.of()
    device = inference.device_for(request.device, ranks.local_rank)
    if request.decode == "device":
        check_decoder(device)
    if request.device_map and ranks.count > 1:
        raise UsageError(
            f"device_map lays one model on all devices, and {ranks.count} ranks would each do so;"
            " start one process"
        )
    with ranks.meeting() as meeting:
        unread = _unread_place(request, ranks)
        taken = meeting.in_turn(lambda: inputs.load(request, unread is not None))
        unreadable = ()
        threads = request.workers or cores(ranks.local_count)
        if request.on_error == "skip":
            taken, unreadable = inputs.readable(taken, threads, ranks, meeting, progress)
        taken = inputs.in_pieces(taken, request, threads)
        inference.check_engine(taken.backbone, request.precision, request.compile)
        spec = taken.spec(request, _precision(taken, request, device))
        if unread is None:
            store = _store(taken, spec, request, device, unreadable, ranks, meeting)
        else:
            store = _begun(taken, spec, request, device, unread)
        todo = pipeline.missing(store, ranks, meeting, progress)
        job = meeting.job if ranks.count > 1 else None
    _LOG.info("%s: %d of %d blocks to be made", store.path, len(todo), len(store.blocks()))
    if ranks.rank == 0 and (misstated := store.misstated()):
        with store.writer(job) as writer:
            writer.withdraw(misstated)
    work = _work(store, taken, ranks.share(todo), request)
    remarks: dict[str, Counter[str]] = {}
    notes = taken.backbone.notes
    if work.blocks:
        mine = set(work.blocks)
        with Tally(store, [block for block in todo if block not in mine]) as others:
            told = _counted(progress, work, todo, ranks, others)
            remarks, random = _fill(work, taken, request, device, ranks, job, told)
        name = taken.backbone.name
        if random and not any(note.startswith(f"{name} gives other features") for note in notes):
            notes = (*notes, own_models.random_note(name, random))
    finished = creation.finish(store) if unread is None else _of_read(taken, store, request)
    if not todo and ranks.rank == 0:
        pipeline.tidy(finished)
    took = time.perf_counter() - started
    _LOG.info("%s: %d passes in %.1f s by this process", finished.path, work.passes, took)
    return Extraction(
        store=finished,
        images_done=work.passes,
        images_reused=pipeline.passes(store, store.blocks()) - pipeline.passes(store, todo),
        seconds=took,
        reused=not todo,
        notes=notes,
        notices=_notices(taken, finished, remarks),
        unreadable=unreadable,
        modality=work.modality,
        ranks=ranks,
    )


def _unread_place(request: Request, ranks: Ranks) -> Path | None:
    """Return the place of features until every row is read; None if rows are read first.

    A store's header tells its rows, by a hash, and its classes. Where there is no store to hold
    them against, rows are read once, for the forward pass, and the store is made of it afterwards.
    """
    alone = ranks.count == 1 and request.on_error == "raise" and request.rows == "items"
    objects = not isinstance(request.dataset, str) or is_named(request.dataset)
    plain = request.limit is None and not request.augmentation
    out = place(request.out) if request.out else None
    if not (alone and objects and plain and isinstance(out, Path)):
        return None
    unread = places.unread(out)
    return unread if os.path.lexists(unread) or not creation.exists(out) else None


def _begun(
    taken: Inputs, spec: Spec, request: Request, device: torch.device, unread: Path
) -> Store:
    """Return the store of features whose rows are unread, new, or as an earlier run left it.

    Rows of that run are read again, and held against what they were.
    """
    provenance = _provenance(taken, request, device, (), Ranks())
    if spec.precision not in ("float32", taken.backbone.dtype) and not unread.exists():
        provenance["precision_change"] = _precision_change(taken, spec, request, device)
    ids = [one.read.ids for one in taken.rows.values() if one.read.ids]
    made = {
        "format": request.format,
        "codec": request.codec,
        "id_width": max(64, *map(width, ids)) if ids else 64,
        "provenance": provenance,
    }
    try:
        store = creation.open_or_create(unread, spec, **made)
        for split, block in store.blocks():
            rows = store.rows_of(split, block)
            if store.record(split, block):
                there = decode_ids(store.read(split, IDS, rows.start, rows.stop))
                own.go_on(taken.rows[split], rows, there)
    except (SpecMismatch, DatasetError):
        if not request.overwrite:
            raise
        creation.remove(unread)
        store = creation.open_or_create(unread, spec, **made)
    return store


def _of_read(taken: Inputs, begun: Store, request: Request) -> Store:
    """Make the store of features whose rows have all been read by now, and return it."""
    rows = own.finished(taken.rows)
    spec = replace(taken, rows=rows).spec(request, begun.spec.precision)
    kept = {name: one for name, one in begun.provenance.items() if name not in _OF_THE_PLACE}
    store = creation.open_or_create(
        request.out,
        spec,
        request.format,
        codec=request.codec,
        id_width=begun.header.id_width,
        provenance=kept,
        overwrite=request.overwrite,
    )
    taps = {tap.name: tap.name for tap in spec.taps}
    features = {split: SplitRows(begun, split, taps) for split in rows}
    with store.writer() as writer:
        for split, block in store.blocks():
            if store.record(split, block) is None:
                numbers = store.rows_of(split, block)
                here = slice(numbers.start, numbers.stop)
                found = features[split].take(numbers).features
                labels, ids = rows[split].labels[here], rows[split].ids[here]
                seen = begun.record(split, block).seen
                writer.write(split, block, found, labels, ids, seen)
    made = creation.finish(store)
    creation.remove(begun.path)
    return made


# What the provenance of every store says of its own making.
_OF_THE_PLACE = ("created", "versions", SEQUENCE, FOLDER)


def _notices(taken: Inputs, store: Store, remarks: dict[str, Counter[str]]) -> tuple[Notice, ...]:
    """Return what was left out or read otherwise, by this call and those before it."""
    said = list(taken.notices)
    for split in taken.rows:
        # A union of counters keeps the larger: what this call saw is in the store, if it had room.
        said += of_remarks(split, store.seen(split) | remarks.get(split, Counter()))
    return distinct(said)


def _precision(taken: Inputs, request: Request, device: torch.device) -> str:
    if taken.backbone.engine != "torch":
        return "float32"
    kept = taken.backbone.dtype
    if kept != "float32":
        if request.precision not in ("auto", kept):
            raise UsageError(
                f"the weights are {kept}, and compute in it; leave --precision {request.precision}"
                " out, or --weights-dtype"
            )
        return kept
    return inference.precision_for(request.precision, device)


def _store(
    taken: Inputs,
    spec: Spec,
    request: Request,
    device: torch.device,
    unreadable: tuple[Unreadable, ...],
    ranks: Ranks,
    meeting: Meeting,
) -> Store:
    """The store, new or as it is; rank 0 makes it, the others open it afterwards."""
    path = request.out or catalog.default_path(spec, request.format)

    def opened(overwrite: bool, provenance: dict) -> Store:
        ids = (id_ for rows in taken.rows.values() for id_ in rows.ids)
        return creation.open_or_create(
            path,
            spec,
            request.format,
            overwrite=overwrite,
            codec=request.codec,
            id_width=max(64, *(len(id_.encode()) for id_ in ids)),
            provenance=provenance,
        )

    if ranks.rank == 0:
        provenance = _provenance(taken, request, device, unreadable, ranks)
        reduced = spec.precision not in ("float32", taken.backbone.dtype)
        if reduced and (request.overwrite or not creation.exists(path)):
            provenance["precision_change"] = _precision_change(taken, spec, request, device)
        store = opened(request.overwrite, provenance)
    # Where it is written: what overwrites a store is built beside it.
    where = meeting.said(str(store.path) if ranks.rank == 0 else "")[0]
    if ranks.rank > 0:
        path = where
        store = opened(False, {})
    return store


def _work(store: Store, taken: Inputs, blocks: list[Block], request: Request) -> Work:
    recorded = store.provenance.get("batch_size")
    return Work(
        store=store,
        rows=taken.rows,
        augmented=taken.views is not None,
        blocks=blocks,
        batch_size=request.batch_size or recorded or BATCH_SIZE,
        by_length=store.provenance.get("by_length", False),
    )


def _fill(
    work: Work,
    taken: Inputs,
    request: Request,
    device: torch.device,
    ranks: Ranks,
    job: str | None,
    progress,
) -> tuple[dict[str, Counter[str]], tuple[str, ...]]:
    """Compute blocks; return remarks as `pipeline.fill`, and the taps that are random."""
    compiled = request.compile
    if compiled is None:
        compiled = work.store.provenance.get("compile", False)
    precision = work.store.spec.precision
    items = sum(len(rows.items) for rows in work.rows.values())
    spare = max(_SPARE, min(work.passes, items) // 100)
    if compiled or device.type != "cpu":
        # another shape would be compiled anew, and a device may sum in another order each time
        spare = max(spare, work.batch_size)
    infer = Inference(taken.backbone, taken.reader, device, precision, compiled, spare)
    there = device if request.decode == "device" else None
    encode = Encoder(taken.backbone, taken.views, taken.reader.least, taken.words, there)
    workers = Workers.chosen(
        request.workers, device.type, work.modality, work.passes, ranks.local_count
    )
    remarks = pipeline.fill(work, encode, infer, workers=workers, job=job, progress=progress)
    return remarks, infer.random or ()


def _counted(progress: Progress, work: Work, todo: list[Block], ranks: Ranks, others: Tally):
    """Progress of the whole store: what was there before, and what all ranks have added."""
    total = pipeline.passes(work.store, work.store.blocks())
    reused = total - pipeline.passes(work.store, todo)
    facts = {"reused": reused}
    if ranks.count > 1:
        facts["ranks"] = ranks.count
    stage = f"{work.modality}s"
    progress(stage, reused, total, **facts)
    return lambda done, **more: progress(stage, reused + done + others.rows, total, **facts, **more)


def _precision_change(
    taken: Inputs, spec: Spec, request: Request, device: torch.device
) -> dict[str, float]:
    """By tap, how far the reduced precision is from float32 on the first batch of rows."""
    rows = next(iter(taken.rows.values()))
    first = range(min(len(rows.items), request.batch_size or BATCH_SIZE))
    encode = Encoder(taken.backbone, least=taken.reader.least, words=taken.words)
    batch = encode(Job(rows.items, first))
    with torch.inference_mode():
        reduced = Inference(taken.backbone, taken.reader, device, spec.precision)
        return inference.change(reduced, Inference(taken.backbone, taken.reader, device), batch)


def _provenance(
    taken: Inputs,
    request: Request,
    device: torch.device,
    unreadable: tuple[Unreadable, ...],
    ranks: Ranks,
) -> dict:
    made = {
        "batch_size": request.batch_size or BATCH_SIZE,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "libraries": {
            name: metadata.version(name) for name in (*_LIBRARIES, *taken.backbone.libraries)
        },
    }
    if ranks.count > 1:
        made["ranks"] = ranks.count
    if request.compile:
        made["compile"] = True
    if taken.backbone.modality == "text" and taken.reader.kind == "items":
        made["by_length"] = True
    said = [Notice("weights", note) for note in taken.backbone.notes] + list(taken.notices)
    if said:
        made["notices"] = [notice.to_json() for notice in said]
    if unreadable:
        made["unreadable"] = [f"{one.split}: {one.id}" for one in unreadable]
    return made
