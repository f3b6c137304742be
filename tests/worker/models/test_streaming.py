"""Weights stream to an accelerator: the host never holds more than a small share of them."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

SHARE = 6 / 51  # of the weights of the released checkpoint: 6 of 51 GB
# In a process of its own, whose allocator has no free memory yet. `meta` stands for the memory of an accelerator: what
# is moved there leaves the host. Mapped files do not count: their pages are page cache.
CODE = """
import json, re, sys, threading
from pathlib import Path
from diffusion_worker.models import placement
from diffusion_worker.models.loader import read_config
from diffusion_worker.models.placement import LoadOptions, meta_model, place, plain_config

folder, placement._check_devices = Path(sys.argv[1]), lambda _model: None
config = read_config(folder / "config.json")
kept = [meta_model(plain_config(config))]  # imports, and the memory of the classes themselves

def anonymous():
    return int(re.search(r"RssAnon:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024

def peak(**options):
    before, most, ended = anonymous(), [0], threading.Event()
    def watch():
        while not ended.wait(0.0005):
            most[0] = max(most[0], anonymous() - before)
    thread = threading.Thread(target=watch)
    thread.start()
    model, found = place(folder, config, LoadOptions(**options))
    ended.set()
    thread.join()
    kept.append(model)
    assert not found["missing_keys"]
    return max(most[0], anonymous() - before), str(next(model.parameters()).device)

print(json.dumps([peak(device="meta"), peak(device="meta", dtype="float32"), peak(device="cpu", dtype="float32")]))
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_the_host_holds_a_small_share_of_the_weights_while_they_stream_to_a_device(
    make_library_model: Any, tmp_path: Path
) -> None:
    """As stored, and with a conversion, which maps nothing from the file; on a CPU the converted weights stay."""
    with torch.device("meta"):
        net = make_library_model(vocab=500, hidden=768, layers=18, dtype=torch.bfloat16)
    net.to_empty(device="cpu").tie_weights()
    whole = sum(weight.numel() * weight.element_size() for weight in net.parameters())
    net.save_pretrained(tmp_path, max_shard_size="40MB")
    done = subprocess.run(
        [sys.executable, "-c", CODE, str(tmp_path)], capture_output=True, text=True, timeout=300, check=True
    )
    (stored, converted, held) = json.loads(done.stdout)
    assert [device for _, device in (stored, converted, held)] == ["meta", "meta", "cpu"]
    assert whole > 100e6
    assert max(stored[0], converted[0]) <= SHARE * whole
    assert held[0] >= 2 * whole, "the measurement does not see weights that the host holds"
