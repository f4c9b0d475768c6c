"""The main job beside its peers: pages a second, CPU seconds and memory, as ratios of medians measured in one run.

    python benchmarks/curate.py --crawl CRAWL --datatrove PYTHON --nemo PYTHON [--workers 2] [--repeat 3]

CRAWL is a folder of *.warc.gz. Each peer runs in the virtual environment of the Python that is named (datatrove:
`datatrove[processing,io]`, python-magic, faust-cchardet; NeMo Curator: `nemo-curator[text-cpu]`, lxml_html_clean,
`ray[default]`) and is left out where none is. All do the same job: read WARCs, extract with trafilatura (precision, no
comments), filter or label, write Parquet. The floor does nothing but extract, with our settings, in as many processes.

Start-up (interpreters, Ray, models) is left out of all alike and given apart: it is what the job takes on a crawl of
one page a file. Rounds go through all contestants in turn, so that a slow minute of the machine hits each of them.
Memory is the summed PSS of every process that the contestant started, sampled in a round of its own.
"""

import argparse
import gzip
import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from fastwarc.warc import ArchiveIterator, WarcRecordType

HERE = Path(__file__).parent


def busy() -> float:
    """CPU seconds that all processes of the machine have used."""
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    return (fields[0] + fields[1] + fields[2] + fields[5] + fields[6]) / os.sysconf("SC_CLK_TCK")


class PeakMemory(threading.Thread):
    """Peak of the summed PSS, in MB, of all processes that began after this object; and of the largest one."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.total = self.largest = 0.0
        self._since = time.time()
        self._running = True

    def run(self) -> None:
        while self._running:
            sizes = [size for process in psutil.process_iter(["create_time"]) if (size := self._size(process))]
            self.total = max(self.total, sum(sizes))
            self.largest = max(self.largest, max(sizes, default=0))
            time.sleep(0.3)

    def _size(self, process: psutil.Process) -> float:
        return pss(process) if process.info["create_time"] >= self._since - 0.05 else 0.0

    def stop(self) -> None:
        self._running = False
        self.join()


def pss(process: psutil.Process) -> float:
    try:
        for line in Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass
    return 0.0


def commands(arguments: argparse.Namespace) -> dict[str, list[str]]:
    """The contestants; each command is completed by a crawl folder and an output folder."""
    workers = str(arguments.workers)
    found = {
        "tilth": [sys.executable, str(HERE / "peers" / "tilth_curate.py"), workers],
        "floor": [sys.executable, str(HERE / "peers" / "floor_curate.py"), workers],
    }
    if arguments.datatrove:
        found["datatrove"] = [arguments.datatrove, str(HERE / "peers" / "datatrove_curate.py"), workers]
    if arguments.nemo:
        found["nemo"] = [arguments.nemo, str(HERE / "peers" / "nemo_curate.py"), workers]
    return found


def race(command: list[str], crawl: Path) -> dict[str, float]:
    """One run of a contestant: its own result with the wall and CPU seconds of the whole command."""
    with tempfile.TemporaryDirectory() as output:
        used, started = busy(), time.time()
        done = subprocess.run([*command, str(crawl), output], capture_output=True, text=True)
        wall, cpu = time.time() - started, busy() - used
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr[-3000:]}")
    return {**json.loads(done.stdout.strip().splitlines()[-1]), "wall": wall, "cpu": cpu}


def one_page(crawl: Path, folder: Path) -> Path:
    """A crawl of as many files with one page each, so that all workers start: the longest English one below 100 kB,
    because some peers fail where nothing is kept."""
    place = folder / "one"
    place.mkdir()
    sources = sorted(crawl.glob("*.warc.gz"))
    longest, page = 0, b""
    for source in sources:
        with open(source, "rb") as file:
            for record in ArchiveIterator(file, record_types=WarcRecordType.response):
                record.freeze()
                size = record.content_length
                if longest < size < 100_000 and b'lang="en' in record.reader.read(2000):
                    record.reader.seek(0)
                    written = io.BytesIO()
                    record.write(written)
                    longest, page = size, written.getvalue()
    for source in sources:
        (place / source.name).write_bytes(gzip.compress(page, mtime=0))
    return place


def identified(crawl: Path, folder: Path) -> Path:
    """The crawl with each record's payload declared HTML, as Common Crawl does; without it datatrove loses pages."""
    place = folder / "identified"
    place.mkdir()
    for source in sorted(crawl.glob("*.warc.gz")):
        with open(source, "rb") as file, open(place / source.name, "wb") as target:
            for record in ArchiveIterator(file, record_types=WarcRecordType.response, parse_http=False):
                record.headers["WARC-Identified-Payload-Type"] = "text/html"
                with gzip.GzipFile(fileobj=target, mode="wb", mtime=0) as member:
                    record.write(member)
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--crawl", type=Path, required=True)
    parser.add_argument("--datatrove", help="Python of an environment with datatrove")
    parser.add_argument("--nemo", help="Python of an environment with NeMo Curator")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()

    folder = Path(tempfile.mkdtemp())
    single, whole = one_page(arguments.crawl, folder), identified(arguments.crawl, folder)
    contestants = commands(arguments)
    results: dict[str, dict[str, list[dict[str, float]]]] = {name: {"one": [], "all": []} for name in contestants}
    memory: dict[str, PeakMemory] = {}
    for name, command in contestants.items():  # also warms the disk's cache
        memory[name] = PeakMemory()
        memory[name].start()
        race(command, whole)
        memory[name].stop()
    for _ in range(arguments.repeat):
        for name, command in contestants.items():
            results[name]["one"].append(race(command, single))
            results[name]["all"].append(race(command, whole))
    shutil.rmtree(folder)

    rows = {}
    for name, found in results.items():
        start = statistics.median(one["wall"] for one in found["one"])
        start_cpu = statistics.median(one["cpu"] for one in found["one"])
        wall = statistics.median(one["wall"] for one in found["all"]) - start
        cpu = statistics.median(one["cpu"] for one in found["all"]) - start_cpu
        pages = found["all"][0]["pages"]
        rows[name] = {
            "pages": pages,
            "pages_per_s": round(pages / wall, 1),
            "wall_s": round(wall, 2),
            "cpu_s": round(cpu, 2),
            "start_up_s": round(start, 2),
            "peak_mb": round(memory[name].total),
            "largest_process_mb": round(memory[name].largest),
            "accounted": found["all"][0].get("accounted"),
            "all_wall_s": [round(one["wall"], 2) for one in found["all"]],
        }
    speed = rows["tilth"]["pages_per_s"]
    ratios = {f"tilth / {name}": round(speed / row["pages_per_s"], 2) for name, row in rows.items() if name != "tilth"}
    print(json.dumps({"bench": "curate", "workers": arguments.workers, "ratios": ratios, **rows}, indent=1))


if __name__ == "__main__":
    main()
