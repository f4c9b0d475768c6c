"""What tests share: the real data where it is at hand, and one Ray for the whole session."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("RAY_DEDUP_LOGS", "0")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not os.environ.get("TILTH_DATA"):
        missing = pytest.mark.skip(reason="TILTH_DATA names no folder of real data")
        for item in items:
            if item.get_closest_marker("realdata"):
                item.add_marker(missing)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of real data."""
    return Path(os.environ["TILTH_DATA"])


@pytest.fixture(scope="session")
def ray():
    """Ray, started once: two workers, a small object store."""
    import ray

    os.environ["PYTHONPATH"] = str(Path(__file__).parent)  # so that workers find the classes of tests
    ray.init(
        "local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        log_to_driver=False,
        logging_level="error",
    )
    yield ray
    ray.shutdown()


@pytest.fixture
def small_disk(tmp_path: Path):
    """A file system of 2 MB of its own; needs the right to mount one."""
    import subprocess

    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("no right to mount a small file system here")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.fixture(scope="session")
def s3():
    """A local S3 server with an empty bucket."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    endpoint = f"http://{host}:{port}"
    settings = {
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    boto3.client("s3").create_bucket(Bucket="soil")
    yield "s3://soil"
    server.stop()
    for name, value in before.items():
        os.environ.pop(name) if value is None else os.environ.update({name: value})
