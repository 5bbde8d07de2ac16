"""A segment's bits are its own: whatever it is batched with, however many threads run, wherever the run is cut."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from encoder import Encoder
from tests.encoder.models import Make, loaded, random_ids

LENGTHS = (1, 5, 33, 77, 301, 453, 511, 512)
SERVED = [("int8", "auto"), ("int8", "reference"), ("bf16", "auto"), ("fp32", "auto")]


@pytest.fixture(scope="module")
def wide(make_model: Make) -> Path:
    sizes = {"hidden_size": 768, "num_attention_heads": 12, "intermediate_size": 1024, "num_hidden_layers": 1}
    return make_model(**sizes)


@pytest.fixture(scope="module")
def middle(make_model: Make) -> Path:
    sizes = {"hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536, "num_hidden_layers": 1}
    return make_model(**sizes)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def states(model: Encoder, lengths: tuple[int, ...], window: int, cut: int = 0) -> list[Tensor]:
    """Each segment's last state, of one run over all of them, left and entered again at `cut`."""
    batch = model.batch([random_ids(length, model.architecture.vocabulary) for length in lengths], window)
    batch = model.run(model.run(batch, 0, cut), cut, model.layers)
    assert batch.state is not None
    return list(torch.split(batch.state, list(lengths)))


@pytest.mark.parametrize(("scheme", "isa"), SERVED)
@pytest.mark.parametrize("window", [0, 64])
@pytest.mark.parametrize("folder", ["middle", "wide"])
def test_a_state_depends_on_its_segment_alone(
    folder: str,
    scheme: str,
    isa: str,
    window: int,
    threads: Callable[[int], None],
    request: pytest.FixtureRequest,
) -> None:
    model = loaded(request.getfixturevalue(folder), scheme, isa)
    threads(1)
    alone = [states(model, (length,), window)[0] for length in LENGTHS]
    for count, order in ((1, (17, *LENGTHS, 3)), (2, LENGTHS[::-1])):
        threads(count)
        among = dict(zip(order, states(model, order, window), strict=True))
        for length, state in zip(LENGTHS, alone, strict=True):
            assert torch.equal(among[length], state), f"{length} tokens, {count} threads, among {order}"
    # Alone on two threads as well.
    assert torch.equal(states(model, LENGTHS[-1:], window)[0], alone[-1])


@pytest.mark.parametrize("scheme", ["int8", "bf16", "fp32"])
@pytest.mark.parametrize("window", [0, 16])
def test_cutting_a_run_at_any_layer_changes_nothing(small_bert: Path, scheme: str, window: int) -> None:
    model = loaded(small_bert, scheme)
    whole = states(model, (33, 77, 1), window)
    for cut in range(model.layers + 1):
        for state, expected in zip(states(model, (33, 77, 1), window, cut), whole, strict=True):
            assert torch.equal(state, expected), f"cut at layer {cut}"


@pytest.mark.parametrize("scheme", ["int8", "fp32"])
def test_many_threads_may_run_one_model(small_bert: Path, scheme: str) -> None:
    model = loaded(small_bert, scheme)
    expected = states(model, (77,), 0)[0]
    found: list[Tensor] = []
    workers = [threading.Thread(target=lambda: found.extend(states(model, (77, 5), 0)[:1])) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == len(workers)
    assert all(torch.equal(state, expected) for state in found)


def test_a_run_leaves_the_callers_threads_as_they_were(small_bert: Path, threads: Callable[[int], None]) -> None:
    threads(2)
    states(loaded(small_bert, "fp32"), (5,), 0)
    assert torch.get_num_threads() == 2


def test_equal_lower_layers_have_equal_digests(make_model: Make, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    first = make_model()
    tensors = load_file(first / "model.safetensors")
    tensors["encoder.layer.2.output.dense.weight"] += 1
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((first / "config.json").read_bytes())
    for scheme in ("fp32", "int8"):
        ours, theirs = loaded(first, scheme), loaded(tmp_path, scheme)
        same = [a == b for a, b in zip(ours.layer_digests, theirs.layer_digests, strict=True)]
        assert same == [True, True, True, False]
        assert ours.digest == ours.layer_digests[-1]


def test_digests_and_numerics_tell_schemes_and_kernels_apart(small_bert: Path) -> None:
    models = [loaded(small_bert, scheme) for scheme in ("int8", "bf16", "fp32")]
    assert len({model.digest for model in models}) == 3
    assert len({model.numerics(2) for model in models}) == 3
    plain, best = loaded(small_bert, "int8", "reference"), loaded(small_bert, "int8")
    assert (plain.numerics(2) == best.numerics(2)) == (plain.kernels == best.kernels)
    assert plain.digest == best.digest


def test_loading_twice_gives_the_same_bits(small_bert: Path) -> None:
    import encoder

    again = encoder.load(small_bert, scheme="int8", device="cpu")
    assert again.layer_digests == loaded(small_bert, "int8").layer_digests
    assert again.numerics(2) == loaded(small_bert, "int8").numerics(2)
    assert np.array_equal(states(again, (33,), 0)[0].float(), states(loaded(small_bert, "int8"), (33,), 0)[0].float())
