"""The inputs of an extraction: a network, its taps, the rows, their views, the spec of it all."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from featstore import data, factories, models
from featstore.data import augment, maps, own as own_data
from featstore.data.augment import Views
from featstore.data.maps import Maps
from featstore.data.rows import Pieces, Rows, Unreadable, limited
from featstore.errors import DatasetError, UsageError
from featstore.extraction.ranks import Meeting, Ranks
from featstore.extraction.request import TRAIN, Request
from featstore.models import own as own_models, taps as tap_names, transforms
from featstore.models.network import Backbone
from featstore.models.taps import Taps
from featstore.models.transforms import Transform
from featstore.notices import Notice, distinct
from featstore.spec import Spec, Split
from featstore.store.base import Progress
from featstore.store.exchange import columns_of


@dataclass(frozen=True)
class Inputs:
    """Rows by split, the network and its taps, and the views of train rows, None where clean."""

    backbone: Backbone
    reader: Taps
    rows: Mapping[str, Rows | Pieces]
    views: Views | None

    @property
    def words(self) -> str:
        """Pieces of texts that tokens are told of: "word" or "span", or nothing."""
        return "word" if self.reader.kind == "tokens" else "span" if self.reader.span else ""

    @property
    def notices(self) -> tuple[Notice, ...]:
        """Return what was left out of the data, or is read otherwise than it is."""
        return distinct(notice for rows in self.rows.values() for notice in rows.notices)

    def spec(self, request: Request, precision: str) -> Spec:
        """Return the spec of a store of these inputs."""
        first = next(iter(self.rows.values()))
        return Spec(
            backbone=self.backbone.name,
            weights=self.backbone.weights_id,
            transform=self.backbone.transform_text,
            dataset=first.dataset,
            splits=tuple(
                Split(
                    name=split,
                    n_rows=len(rows),
                    fingerprint=rows.fingerprint,
                    views=request.views if split == TRAIN else 1,
                )
                for split, rows in self.rows.items()
            ),
            taps=self.reader.taps,
            dtype=request.dtype,
            classes=first.classes,
            targets=first.targets,
            binary=bool(first.targets) and first.labels.dtype.kind == "u",
            limit=request.limit,
            precision=precision,
            augment=self.views.text if self.views else None,
            rows=self.reader.kind,
            columns=columns_of([rows.items.beside for rows in self.rows.values()]),
        )


def load(request: Request, unread: bool = False) -> Inputs:
    """The inputs that a request names; raises what loading each of them raises.

    Rows of objects may be left `unread`, see `data.own.load`.
    """
    request = _with_code(request)
    if not isinstance(request.model, str):
        rows = _rows(request, None, unread)
        first = next(iter(rows.values())).part([0])[0]
        backbone = own_models.backbone(
            request.model,
            first,
            transform=request.transform,
            name=request.name,
            version=request.version,
        )
        _check(backbone, list(rows.values()))
        reader = tap_names.resolve(backbone, request.taps, request.pool, request.rows)
        if reader.span:
            raise UsageError(
                f"the span {reader.span} is a column of a table, and of texts for a model by name;"
                " leave it out"
            )
        if request.augmentation:
            _views(request, backbone)
        return Inputs(own_models.checked(backbone, reader), reader, rows, None)
    if isinstance(request.dataset, str):
        data.check(
            request.dataset, request.splits, data_dir=request.data_dir, columns=request.columns
        )
    backbone = models.load(
        request.model,
        weights=request.weights,
        pretrained=request.pretrained,
        image_size=request.image_size,
        transform=request.transform,
        trust=request.trust,
        weights_key=request.weights_key,
        weights_prefix=request.weights_prefix,
        weights_dtype=request.weights_dtype,
        device_map=request.device_map,
        prompt=request.prompt,
        long_texts=request.long_texts,
    )
    if request.decode == "device":
        backbone = replace(backbone, transform=transforms.on_device(backbone.transform))
    reader = tap_names.resolve(backbone, request.taps, request.pool, request.rows)
    augmented = _views(request, backbone) if request.augmentation else None
    if reader.span:
        if not isinstance(request.dataset, str):
            raise UsageError(
                f"the span {reader.span} is a column of a table; give a data set by name"
            )
        request = replace(request, columns=replace(request.columns, span=reader.span))
    rows = _rows(request, backbone.modality, unread)
    _check(backbone, list(rows.values()))
    return Inputs(backbone, reader, rows, augmented)


def _with_code(request: Request) -> Request:
    """Return the request with what names of the user's own code stand for, which is run here.

    What tells such a network from others is the hash of its file too.
    """
    changes: dict[str, Any] = {}
    if factories.is_named(request.model):
        network, source = factories.network(request.model)
        if isinstance(network, tuple) and len(network) == 2:
            network, changes["transform"] = network
        version = f"{request.version} " if request.version else ""
        changes |= {"model": network, "version": f"{version}source:{source}"}
        if isinstance(network, str):
            raise UsageError(f"{request.model} is a text; give what is or makes a network")
    if factories.is_named(request.dataset):
        found = factories.dataset(request.dataset, request.splits)
        if isinstance(found, str):
            raise UsageError(f"{request.dataset} is a text; give what is or makes a data set")
        changes["dataset"] = found
    return replace(request, **changes) if changes else request


def _rows(request: Request, modality: str | None, unread: bool) -> dict[str, Rows]:
    """The rows of every split, for a model by name of this modality, or a network of one's own."""
    by_name, words = modality is not None, request.rows == "tokens"
    if not isinstance(request.dataset, str):
        found = own_data.load(
            request.dataset,
            ids=request.ids,
            modality=modality or "tensor",
            unread=unread,
            mapped=request.rows == "patches",
        )
        # rows with maps are read when these are, and then limited
        return {
            split: rows if rows.maps else limited(rows, request.limit)
            for split, rows in found.items()
        }
    found = {
        split: data.load(
            request.dataset,
            split,
            data_dir=request.data_dir,
            limit=request.limit,
            columns=replace(request.columns, rows="tokens") if words else request.columns,
            bit_depth=request.bit_depth,
            missing_ok=request.on_error == "skip",
        )
        for split in request.splits
    }
    if by_name:
        return found
    return {split: own_data.as_tensors(rows) for split, rows in found.items()}


def in_pieces(inputs: Inputs, request: Request, threads: int) -> Inputs:
    """Return the inputs with rows that are what the taps read: items, their words or patches."""
    kind, positions = inputs.reader.kind, inputs.reader.positions
    if kind == "items":
        return inputs
    rows = dict(inputs.rows)
    if any(one.maps for one in rows.values()):
        rows = _labelled(inputs, request, threads)
    elif request.maps:
        raise UsageError(
            f"{next(iter(rows.values())).dataset} has no maps, and it is said how they are read;"
            " name the column of a table that has them (--map-column), or give pairs of images and"
            " maps"
        )
    pieces = {split: Pieces.of(one, kind, positions) for split, one in rows.items()}
    return replace(inputs, rows=pieces)


def _labelled(inputs: Inputs, request: Request, threads: int) -> dict[str, Rows]:
    """Return the rows of images with the labels of their patches, from the images' maps."""
    backbone, grid = inputs.backbone, inputs.reader.grid
    name, sides = backbone.name, backbone.transform.sides
    if grid is None or sides is None:
        what = (
            f"{inputs.reader.positions} patches" if sides else "rows that are no images (C, H, W)"
        )
        raise UsageError(
            f"{name} has {what}, of which it is not known where in the image they lie, so that a"
            " map does not tell their labels; tap another layer, or give patches their image's"
            " label"
        )
    transform = getattr(backbone.transform, "call", backbone.transform)
    sources = None
    if isinstance(transform, Transform):
        sources = transforms.sources(transforms.nearest(transform.geometry))
    objects = not isinstance(request.dataset, str) or factories.is_named(request.dataset)
    found = maps.labelled(
        inputs.rows,
        request.maps or Maps(),
        grid,
        sides,
        sources,
        request.columns.map or "target",
        # an object of the user's may not stand several
        1 if objects and not request.workers else threads,
    )
    if objects:
        done = own_data.finished(found)
        found = {split: limited(one, request.limit) for split, one in done.items()}
    return found


def readable(
    inputs: Inputs, threads: int, ranks: Ranks, meeting: Meeting, progress: Progress
) -> tuple[Inputs, tuple[Unreadable, ...]]:
    """The inputs without the rows that cannot be read, and those; each rank reads its share.

    `threads` of each rank read.
    """
    kept, left_out = {}, []
    for split, rows in inputs.rows.items():
        share = np.arange(ranks.rank, len(rows), ranks.count)
        found = (
            data.scan(rows.kept(share), workers=threads, progress=progress) if len(share) else ()
        )
        mine = [asdict(replace(one, row=int(share[one.row]))) for one in found]
        said = meeting.said(json.dumps(mine))
        unreadable = [Unreadable(**one) for text in said for one in json.loads(text)]
        unreadable.sort(key=lambda one: one.row)
        kept[split] = data.without(rows, unreadable)
        left_out += [*rows.left_out, *unreadable]
    # A damaged line that belongs to no split was told by each.
    once = {(one.id, one.why): one for one in reversed(left_out)}
    return replace(inputs, rows=kept), tuple(reversed(once.values()))


def _views(request: Request, backbone: Backbone) -> Views:
    if backbone.modality != "image":
        raise UsageError(
            f"{backbone.name} takes {backbone.modality}s, which have no views; leave --views and"
            " --augment out"
        )
    height, width = backbone.transform.sides
    if height != width:
        raise UsageError(
            f"{backbone.name} sees images of {height} x {width} px, and views are square; leave"
            " --views and --augment out"
        )
    return augment.parse(request.augmentation, height, request.seed)


def _check(backbone: Backbone, splits: list[Rows]) -> None:
    first = splits[0]
    if first.modality != backbone.modality:
        raise UsageError(
            f"{first.dataset} holds {first.modality}s and {backbone.name} takes"
            f" {backbone.modality}s; give a model or a data set of the other kind"
        )
    for rows in splits:
        if rows.classes != first.classes:
            raise DatasetError(
                f"{first.dataset} has {len(first.classes)} classes in {first.split} and"
                f" {len(rows.classes)} others in {rows.split}; their numbers would not agree"
            )
        if rows.targets != first.targets:
            raise DatasetError(
                f"{first.dataset} has the targets {', '.join(first.targets)} in {first.split} and"
                f" {', '.join(rows.targets)} in {rows.split}; name the same columns for each"
            )
