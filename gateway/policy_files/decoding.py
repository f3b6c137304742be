"""The key `decoding` of targets and routes: the decoding mode in which workers answer.

A mode is part of the model's name at the worker. A route that sets one gets targets of its own: the same workers, whose
names end in the mode.
"""

from collections.abc import Mapping
from dataclasses import replace

from gateway.enums import Decoding, Kind
from gateway.policy_files.section import Section
from gateway.types import Target


def read_model(entry: Section, kind: Kind) -> str:
    """The model name of a target at its server."""
    model: str = entry.string("model")
    decoding: Decoding | None = entry.choice("decoding", Decoding, None)
    if decoding is None:
        return model
    if kind is not Kind.WORKER:
        raise entry.error("allowed only for targets of kind worker", "decoding")
    if Decoding.of_model(model) is not Decoding.DIFFUSION:
        raise entry.error(f"the model {model!r} names a decoding mode, too: set one of them", "decoding")
    if decoding is not Decoding.DIFFUSION and entry.has("diffusion"):
        raise entry.error(f"denoising parameters have no effect on {decoding} decoding", "diffusion")
    return _in_mode(model, decoding)


def read_route_decoding(entry: Section, used: tuple[str, ...], targets: Mapping[str, Target]) -> dict[str, Target]:
    """The targets that take the place of those that a route uses, by the names of these: the workers that would decode
    in another mode than the route's."""
    decoding: Decoding | None = entry.choice("decoding", Decoding, None)
    if decoding is None:
        return {}
    workers = [targets[name] for name in used if targets[name].kind is Kind.WORKER]
    if not workers:
        raise entry.error("requires a target of kind worker in `use`", "decoding")
    placed = {each.name: _decoded(each, decoding) for each in workers if Decoding.of_model(each.model) is not decoding}
    for target in placed.values():
        if targets.get(target.name, target) != target:
            raise entry.error(f"creates a target {target.name!r}, but another one has this name", "decoding")
    return placed


def _decoded(target: Target, decoding: Decoding) -> Target:
    """The same target in another decoding mode. Denoising parameters concern diffusion only."""
    name = f"{target.name}:{decoding}"
    model = _in_mode(target.model.removesuffix(f":{Decoding.of_model(target.model)}"), decoding)
    diffusion = target.diffusion if decoding is Decoding.DIFFUSION else ()
    endpoints = tuple(
        replace(each, name=name + each.name.removeprefix(target.name), pool=name, model=model, diffusion=diffusion)
        for each in target.endpoints
    )
    return replace(target, name=name, model=model, diffusion=diffusion, endpoints=endpoints)


def _in_mode(model: str, decoding: Decoding) -> str:
    return model if decoding is Decoding.DIFFUSION else f"{model}:{decoding}"
