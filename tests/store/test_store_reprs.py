"""Texts that a person reads of a store and of its taps."""

import numpy as np
import pytest

import featstore


def test_a_person_reads_a_store(tmp_path):
    x, y = np.zeros((6, 4), np.float32), np.arange(6) % 3
    for name, array in {"x": x, "y": y}.items():
        np.save(tmp_path / f"{name}.npy", array)
    files = tmp_path / "x.npy", tmp_path / "y.npy"
    store = featstore.import_arrays(files, files, out=tmp_path / "<b>.zarr")
    told = repr(store)
    assert told.startswith(f"<{type(store).__name__} {tmp_path}/<b>.zarr: features of ")
    assert "3 classes; splits train (6 rows), test (6 rows); taps " in told
    html = store._repr_html_()
    assert "&lt;b&gt;.zarr" in html
    assert "<b>" not in html
    tap = store.spec.taps[0].name
    assert repr(store.tap("test", tap)) == (
        f"<TapBlocks {tap} of test: 6 rows x 4 features, 3 classes, in {store.path}>"
    )
    assert featstore.open(store) is store
    with pytest.raises(TypeError):
        featstore.open(3)
