"""How results were made, for a reader: what their notes say, and what is not known."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from studies.report.reading import Source

MOST_CLASSES = 12


def made(sources: Sequence[Source]) -> str:
    """Return an HTML element for each file of results."""
    return "\n".join(_of_source(source, len(sources) == 1) for source in sources)


def _of_source(source: Source, alone: bool) -> str:
    note = source.note
    facts: list[tuple[str, str]] = [("file", str(source.path)), ("probes", f"{source.rows:,}")]
    if source.options:
        facts.append(("options", "; ".join(source.options)))
    if note is None:
        facts.append((
            "how it was made",
            f"unknown: there is no note {source.path.name}.provenance.json beside the file",
        ))  # fmt: skip
    else:
        if source.changed:
            facts.append(("note", "written for other contents: the file has changed since"))
        facts += _of_note(note)
    stores = [] if note is None else [each for each in _list(note, "stores") if _is_map(each)]
    inside = _list_of(facts) + "".join(map(_of_store, stores))
    opened = " open" if alone else ""
    return f"<details{opened}><summary>{escape(source.path.name)}</summary>{inside}</details>"


def _of_note(note: Mapping[str, Any]) -> list[tuple[str, str]]:
    machine = _map(note, "machine")
    computed = [machine.get(name) for name in ("processor", "device", "system")]
    cores = machine.get("cores")
    if cores:
        computed.insert(1, f"{cores} core{'s' if cores != 1 else ''}")
    return [
        ("command", _text(note.get("command")) or "none: called from Python"),
        ("finished", _text(note.get("finished"))),
        ("machine", ", ".join(_text(each) for each in computed if each)),
        ("versions", _pairs(_map(note, "versions"))),
    ]


def _of_store(store: Mapping[str, Any]) -> str:
    spec = _map(store, "spec")
    facts = [(name, _text(spec.get(name))) for name in (
        "backbone", "weights", "transform", "dataset", "dtype", "precision", "augment", "limit",
    )]  # fmt: skip
    facts += [
        (f"split {_text(each.get('name'))}",
         f"{_count(each.get('n_rows'))} rows, fingerprint {_text(each.get('fingerprint'))}")
        for each in _list(spec, "splits") if _is_map(each)
    ]  # fmt: skip
    facts += [
        (f"tap {_text(each.get('name'))}",
         f"{_count(each.get('dim'))} features, pooling {_text(each.get('pooling'))}")
        for each in _list(spec, "taps") if _is_map(each)
    ]  # fmt: skip
    facts += [
        ("classes", _some(_list(spec, "classes"))),
        ("targets", _some(_list(spec, "targets"))),
        ("digest of the spec", _text(store.get("digest"))),
    ]
    facts += [(f"extraction: {name}", _flat(value)) for name, value in
              _map(store, "provenance").items()]  # fmt: skip
    return f"<h3>Store {escape(_text(store.get('path')))}</h3>{_list_of(facts)}"


def _list_of(facts: Iterable[tuple[str, str]]) -> str:
    items = [f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts if value]
    return f"<dl>{''.join(items)}</dl>"


def _some(names: Sequence[Any]) -> str:
    if not names:
        return ""
    shown = ", ".join(map(_text, names[:MOST_CLASSES]))
    more = ", ..." if len(names) > MOST_CLASSES else ""
    return f"{len(names):,}: {shown}{more}"


def _flat(value: Any) -> str:
    if _is_map(value):
        return _pairs(value)
    return ", ".join(map(_text, value)) if isinstance(value, list) else _text(value)


def _pairs(found: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in found.items())


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else _text(value)


def _is_map(value: Any) -> bool:
    return isinstance(value, Mapping)


def _map(found: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return what is an object in a note that was read from a file, and may hold anything."""
    value = found.get(name)
    return value if isinstance(value, Mapping) else {}


def _list(found: Mapping[str, Any], name: str) -> list[Any]:
    value = found.get(name)
    return value if isinstance(value, list) else []
