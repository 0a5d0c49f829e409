"""Reading a store in an object storage, against plain concurrent GETs of the same bytes.

python -m benchmarks.bench_remote --sizes small

The storage is moto's S3 server, a process on this machine; the GETs are boto3's, in threads.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from unittest import mock

import numpy as np

import featstore
from benchmarks import bench_store, stages
from featstore import bench, measurements
from featstore.measurements import Report
from featstore.store.remote import CONNECTIONS

_SERVER = """
import logging, sys
from moto.server import ThreadedMotoServer
logging.getLogger("werkzeug").setLevel(logging.ERROR)
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
"""


@dataclass(frozen=True)
class RemoteSizes:
    """Size of the tap, and number of times that it is read."""

    rows: int
    features: int
    repeats: int


SIZES = {
    "small": RemoteSizes(3_000, 256, 1),
    "medium": RemoteSizes(20_000, 1_024, 3),
    "full": RemoteSizes(50_000, 2_048, 5),
}


@contextmanager
def storage() -> Iterator[str]:
    """Give the URL of a bucket of a server on this machine."""
    server = subprocess.Popen(
        [sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        settings = {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{int(server.stdout.readline())}",
            "AWS_ACCESS_KEY_ID": "bench",
            "AWS_SECRET_ACCESS_KEY": "bench",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        with mock.patch.dict(os.environ, settings):
            import fsspec

            fsspec.filesystem("s3", skip_instance_cache=True).mkdir("benchmark")
            yield "s3://benchmark"
    finally:
        server.communicate()


def plain_gets(n_chunks: int) -> Callable[[], list[bytes]]:
    """Return a function that gets the tap's chunks by boto3, and keeps their bytes."""
    import boto3
    from botocore.config import Config

    client = boto3.client("s3", config=Config(max_pool_connections=CONNECTIONS))

    def get(block: int) -> bytes:
        key = f"x.zarr/train/tap/c.{block}.0"
        return client.get_object(Bucket="benchmark", Key=key)["Body"].read()

    def run() -> list[bytes]:
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return list(pool.map(get, range(n_chunks)))

    return run


def measure(sizes: RemoteSizes, setup: stages.Setup) -> Report:
    """Return the report, after checking that what is read is what was written."""
    random = np.random.default_rng(0)
    shape = (sizes.rows, sizes.features)
    x = random.standard_normal(shape, np.float32).astype(np.float16)
    with storage() as bucket:
        store = featstore.create(f"{bucket}/x.zarr", bench.store_spec(*shape))
        began = time.perf_counter()
        bench.write_store(store, x)
        times = {"write": [time.perf_counter() - began]}
        assert np.array_equal(store.load("train", "tap"), x)
        runs = {
            "plain GETs": plain_gets(store.n_blocks("train")),
            "load": lambda: store.load("train", "tap", verify=False),
            "load, verified": lambda: store.load("train", "tap"),
            "blocks, verified": lambda: bench_store.iterate(store),
        }
        for _ in range(sizes.repeats):
            for what, run in runs.items():
                times.setdefault(what, []).append(measurements.seconds(run)[0])
    targets = {"load": ">= 0.7", "load, verified": ">= 0.7", "blocks, verified": ">= 0.7"}
    best = {what: min(seconds) for what, seconds in times.items()}
    rows = [
        {
            "what": what,
            "seconds": round(seconds, 4),
            "MB/s": round(x.nbytes / seconds / 1e6, 1),
            "ratio": round(best["plain GETs"] / seconds, 2),
            "target": targets.get(what, ""),
        }
        for what, seconds in best.items()
    ]
    return Report(
        "remote", asdict(sizes), measurements.facts(setup.backend), {"S3 on loopback": rows}
    )


if __name__ == "__main__":
    stages.main("remote")
