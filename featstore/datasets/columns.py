"""Which columns of a table are the images or texts, the labels or targets, and the split."""

import codecs
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from featstore.errors import UsageError

# Names that are looked for where none is given, the first that is there.
IMAGE = ("image", "img", "path", "file", "filename", "file_name", "file_path", "filepath")
TEXT = ("text", "sentence", "content", "review")
LABEL = ("label", "labels", "class", "category", "target")
SPLIT = ("split",)
# What labels may be said to be.
KINDS = ("class", "number")


@dataclass(frozen=True)
class Columns:
    """Names of columns, and how they are read; what is None is looked for, or told by the data.

    `image` or `text` is what goes into the backbone, `label` its class (or, where it holds numbers
    with a fraction, its target), `split` says which split a row is in. `targets` names columns of
    numbers to regress on, in place of a label.

    `kind` says whether labels are a "class" or a "number" where that is not to be told from them.
    Of a CSV file, `delimiter` parts the cells, and `encoding` is how its text is encoded.
    """

    label: str | None = None
    image: str | None = None
    text: str | None = None
    split: str | None = None
    targets: tuple[str, ...] = ()
    kind: str | None = None
    delimiter: str | None = None
    encoding: str | None = None

    def __post_init__(self):
        if self.kind not in (None, *KINDS):
            raise UsageError(f"labels are of kind {self.kind!r}; choose {' or '.join(KINDS)}")
        if self.targets and self.kind == "class":
            raise UsageError(
                f"the target columns {', '.join(self.targets)} are numbers, and labels are said to"
                " be classes; give one"
            )
        if self.delimiter is not None and len(self.delimiter) != 1:
            raise UsageError(f"the delimiter is {self.delimiter!r}; it is one character, such as ;")
        if self.encoding is not None:
            try:
                codecs.lookup(self.encoding)
            except LookupError:
                raise UsageError(
                    f"there is no encoding {self.encoding!r}; give one that Python knows, such as"
                    " cp1252 or utf-16"
                ) from None
        if self.image and self.text:
            raise UsageError(
                f"the image column {self.image!r} and the text column {self.text!r} are both given;"
                " a row is an image or a text: give one"
            )
        if self.label and self.targets:
            raise UsageError(
                f"the label column {self.label!r} and the target columns"
                f" {', '.join(self.targets)} are both given; give one"
            )
        repeated = [name for name in self.targets if self.targets.count(name) > 1]
        if repeated:
            raise UsageError(f"the target column {repeated[0]!r} is given twice; name each once")

    def given(self) -> tuple[str, ...]:
        """Every name that is given."""
        names = (self.label, self.image, self.text, self.split, *self.targets)
        return tuple(name for name in names if name)


@dataclass(frozen=True)
class Chosen:
    """Columns of a table that is there: `item` is images or texts, as `modality` says.

    `labels` is the one label column, or the targets; `split` is None where there is none.
    """

    modality: str
    item: str
    labels: tuple[str, ...]
    split: str | None


def choose(
    dataset: str,
    there: Sequence[str],
    columns: Columns,
    is_image: Callable[[str], bool] = lambda name: name.lower() in IMAGE,
    usual_label: Sequence[str] = LABEL,
) -> Chosen:
    """The columns of a table that has those called `there`.

    `is_image` says which can hold images. Raises `UsageError` naming the columns where one that is
    given, or the item or the label that is needed, is not among them.
    """
    repeated = sorted({name for name in there if there.count(name) > 1})
    absent = [name for name in columns.given() if name not in there]
    if repeated or absent:
        wrong = f"has no column {absent[0]!r}" if absent else f"has two columns {repeated[0]!r}"
        raise UsageError(f"{dataset} {wrong}; it has {', '.join(there) or 'none'}")
    images = [name for name in there if is_image(name)]
    image = columns.image or _first(IMAGE, images) or (images[0] if len(images) == 1 else None)
    text = columns.text or _first(TEXT, there)
    if columns.text or (text and not image):
        modality, item = "text", text
    else:
        modality, item = "image", image
    labels = columns.targets or (columns.label or _first(usual_label, there),)
    for what, name, option in (
        ("images or texts", item, "--image-column or --text-column"),
        ("labels", labels[0], "--label-column"),
    ):
        if name is None:
            raise UsageError(
                f"{dataset} has the columns {', '.join(there)}; say which holds the {what}:"
                f" {option}"
            )
    return Chosen(modality, item, labels, columns.split or _first(SPLIT, there))


def _first(usual: Sequence[str], there: Sequence[str]) -> str | None:
    """The first of the usual names that is there, in capitals or not."""
    lower = {name.lower(): name for name in reversed(there)} | {name: name for name in there}
    return next((lower[name] for name in usual if name in lower), None)
