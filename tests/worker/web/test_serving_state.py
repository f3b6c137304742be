"""web.desk: model ids, and what is resident."""

import pytest

from diffusion_worker.errors import NotResident
from diffusion_worker.types.generation import Reading
from diffusion_worker.web.error_body import ModelNotFound
from tests.worker.serving import MODEL, READ, build, serving, toy_net


@pytest.mark.parametrize(
    ("model", "reading"),
    [
        (MODEL, Reading.DIFFUSION),
        (READ, Reading.AUTOREGRESSIVE),
        ("diffusion", Reading.DIFFUSION),
        ("diffusion:autoregressive", Reading.AUTOREGRESSIVE),
    ],
)
def test_an_id_and_its_alias_read_the_weights_the_same_way(model: str, reading: Reading) -> None:
    """Aliases are stable whatever the checkpoint is called."""
    assert build(toy_net()).desk.reading_of(model) is reading


def test_an_unknown_id_is_told_which_there_are() -> None:
    """All four."""
    with pytest.raises(ModelNotFound) as caught:
        build(toy_net()).desk.reading_of("gpt")
    assert all(known in caught.value.message for known in (MODEL, READ, "diffusion"))


@pytest.mark.anyio
async def test_words_and_facts_are_there_once_loaded_and_not_before() -> None:
    """Before, a request is refused and counted."""
    desk = build(toy_net()).desk
    with pytest.raises(NotResident):
        desk.resident()
    assert b'refused_total{reason="not_resident"} 1.0' in desk.meters.render(desk.engine.status())
    async with serving(toy_net(max_context=123)) as served:
        assert served.worker.desk.resident()[1].max_context == 123
