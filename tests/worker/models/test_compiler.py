"""Without a C compiler, models run eager on an accelerator, and the worker says so in one line."""

from collections.abc import Mapping

import pytest
import torch

from diffusion_worker.models.compiler import find_compiler, run_eager_without_compiler


@pytest.mark.parametrize(
    ("environment", "installed", "found"),
    [
        ({}, ("gcc", "clang"), "/usr/bin/gcc"),
        ({}, ("clang",), "/usr/bin/clang"),
        ({}, (), None),
        ({"CC": "icx"}, ("icx", "gcc"), "/usr/bin/icx"),
        ({"CC": "icx"}, ("gcc",), None),
        ({"CC": ""}, ("cc",), "/usr/bin/cc"),
    ],
)
def test_the_compiler_is_the_one_that_triton_would_use(
    environment: Mapping[str, str], installed: tuple[str, ...], found: str | None
) -> None:
    assert find_compiler(environment, lambda name: f"/usr/bin/{name}" if name in installed else None) == found


@pytest.mark.parametrize(
    ("device", "compiler", "is_eager"), [("cuda", "", True), ("cuda", "true", False), ("cpu", "", False)]
)
def test_compiled_functions_run_eager_without_a_compiler(
    device: str, compiler: str, is_eager: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/usr/bin:/bin" if compiler else "/nonexistent")
    monkeypatch.setenv("CC", compiler)
    said: list[str] = []
    compiled: list[object] = []

    def backend(graph: torch.fx.GraphModule, _inputs: object) -> object:
        compiled.append(graph)
        return graph.forward

    try:
        run_eager_without_compiler(device, said.append)
        doubled = torch.compile(lambda x: x * 2, backend=backend)(torch.ones(2))
    finally:
        torch.compiler.set_stance("default")
    assert doubled.tolist() == [2.0, 2.0]
    assert (not compiled) == is_eager
    assert said == (
        ["no C compiler (cc, gcc, clang or $CC): kernels cannot be compiled, running eager"] if is_eager else []
    )
