"""The autoscaler's queries, evaluated by a real Prometheus while workers are lost, restarted and removed: as KEDA would
scale, and never fewer workers because something is unknown."""

import json
import math
import shutil
import subprocess
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.rendered import ROOT, templated
from twolane.process.flags import free_port

MANIFEST = ROOT / "deploy/kubernetes/components/autoscaling/scaledobject.yaml"
TRIGGERS = [one["metadata"] for one in yaml.safe_load(MANIFEST.read_text())["spec"]["triggers"]]
WITHIN_S = 60.0
CONFIGURATION = """
global: {scrape_interval: 200ms, evaluation_interval: 200ms}
scrape_configs:
  - {job_name: twolane-worker, file_sd_configs: [{files: [targets.json], refresh_interval: 200ms}]}
"""


class Worker:
    """A metrics page on loopback."""

    def __init__(self) -> None:
        self.running, self.waiting, self.wait_s, self.is_up = 0, 0, 0.0, True
        worker = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200 if worker.is_up else 503)
                self.end_headers()
                self.wfile.write(worker.page().encode())

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def page(self) -> str:
        return (
            f"twolane_worker_running {self.running}\ntwolane_worker_waiting {self.waiting}\n"
            f"twolane_worker_predicted_wait_seconds {self.wait_s}\n"
        )

    def load(self, running: int, waiting: int, wait_s: float) -> None:
        self.running, self.waiting, self.wait_s = running, waiting, wait_s

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Fleet:
    """Workers that a Prometheus scrapes."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._port = folder, free_port()
        self._workers: list[Worker] = []
        self.discover()
        (folder / "prometheus.yml").write_text(CONFIGURATION)
        line = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'series'}"]
        with (folder / "log").open("w") as log:
            self._process = subprocess.Popen(
                [*line, f"--web.listen-address=127.0.0.1:{self._port}"], stdout=log, stderr=log, cwd=folder
            )

    def new(self) -> Worker:
        self._workers.append(Worker())
        return self._workers[-1]

    def discover(self, *workers: Worker) -> None:
        """From now on these are the targets."""
        (self._folder / "new").write_text(json.dumps([{"targets": [one.address for one in workers]}]))
        (self._folder / "new").replace(self._folder / "targets.json")

    def query(self, text: str) -> list[float]:
        """The values of a query's result."""
        url = f"http://127.0.0.1:{self._port}/api/v1/query?{urllib.parse.urlencode({'query': text})}"
        try:
            with urllib.request.urlopen(url, timeout=120) as answer:
                return [float(one["value"][1]) for one in json.load(answer)["data"]["result"]]
        except OSError:
            return [math.nan]  # not up yet

    def wanted(self) -> int | None:
        """The number of workers that KEDA asks for: None, and so as many as there are, if a query has no result."""
        found = [self.query(one["query"]) for one in TRIGGERS]
        if not all(found):
            return None
        pairs = zip(found, TRIGGERS, strict=True)
        return max(math.ceil(round(values[0] / float(one["threshold"]), 6)) for values, one in pairs)

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + WITHIN_S
        while not condition():
            assert time.monotonic() < deadline, [self.query(one["query"]) for one in TRIGGERS]
            time.sleep(0.05)

    def until_up(self, count: int) -> None:
        self.until(lambda: self.query("sum(up)") == [count])

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(30)
        for one in self._workers:
            one.close()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    if shutil.which("prometheus") is None:
        pytest.skip("no prometheus; `make prometheus` installs it")
    one = Fleet(tmp_path)
    yield one
    one.close()


@pytest.mark.slow  # Prometheus takes changes of its targets over every five seconds
def test_no_state_of_the_fleet_takes_workers_away_by_ignorance(fleet: Fleet) -> None:
    workers = [fleet.new() for _ in range(4)]
    fleet.discover(*workers)
    for one in workers:
        one.load(running=6, waiting=0, wait_s=0.1)
    fleet.until(lambda: fleet.query("sum(up)") == [4] and fleet.wanted() == 4)

    workers[0].load(running=8, waiting=10, wait_s=0.2)  # load decides
    fleet.until(lambda: fleet.wanted() == 6)

    workers[1].load(running=6, waiting=0, wait_s=3.0)  # so does the predicted wait
    fleet.until(lambda: fleet.wanted() == 7)
    workers[1].load(running=6, waiting=0, wait_s=0.1)
    fleet.until(lambda: fleet.wanted() == 6)

    workers[0].is_up = False  # a lost scrape: its last values count
    fleet.until_up(3)
    assert fleet.wanted() == 6

    for one in workers:  # all are lost
        one.is_up = False
    fleet.until_up(0)
    assert fleet.wanted() == 6

    stranger = fleet.new()  # one that has never been scraped counts as a busy one
    stranger.is_up = False
    fleet.discover(*workers, stranger)
    fleet.until(lambda: fleet.query("count(up)") == [5] and fleet.query("sum(up)") == [0])
    assert fleet.wanted() == 7

    for one in (*workers, stranger):  # restarted without requests: that is known
        one.load(running=0, waiting=0, wait_s=0.0)
        one.is_up = True
    fleet.until_up(5)
    fleet.until(lambda: fleet.wanted() == 0)

    fleet.discover()  # service discovery knows none: no result, so KEDA keeps what there is
    fleet.until(lambda: fleet.wanted() is None)


@pytest.mark.parametrize("source", ["overlay", "chart"])
def test_without_an_answer_of_prometheus_there_are_as_many_workers_as_before(source: str) -> None:
    scaled: dict[str, Any]
    if source == "overlay":
        scaled = yaml.safe_load(MANIFEST.read_text())
    else:
        (scaled,) = [one for one in templated("gpu") if one["kind"] == "ScaledObject"]
    assert scaled["spec"]["fallback"]["behavior"] == "currentReplicasIfHigher"
    assert all(one["metadata"]["ignoreNullValues"] == "false" for one in scaled["spec"]["triggers"])
    assert [one["metadata"]["query"] for one in scaled["spec"]["triggers"]] == [one["query"] for one in TRIGGERS]


def test_an_unknown_worker_of_the_chart_counts_as_one_at_the_configured_threshold() -> None:
    options = ("--set", "worker.autoscaling.requestsPerWorker=12", "--set", "worker.autoscaling.waitSecondsPerWorker=2")
    (scaled,) = [one for one in templated("gpu", *options) if one["kind"] == "ScaledObject"]
    for trigger, threshold in zip(scaled["spec"]["triggers"], ("12", "2"), strict=True):
        assert trigger["metadata"]["threshold"] == threshold
        assert f"== 0) + {threshold})" in trigger["metadata"]["query"]
