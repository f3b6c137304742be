"""Results that are kept with an object."""

import gc
import weakref

from diffusion_worker.weak_cache import once_per_object


class Key:
    """Something that can be referred to weakly."""


def test_a_result_is_computed_once_per_object_and_freed_with_it() -> None:
    calls = []

    @once_per_object
    def made(key: Key) -> Key:
        calls.append(id(key))
        return Key()

    one, other = Key(), Key()
    assert made(one) is made(one)
    assert made(other) is not made(one)
    assert calls == [id(one), id(other)]
    result = weakref.ref(made(one))
    del one
    gc.collect()
    assert result() is None
    assert made(other) is made(other)
