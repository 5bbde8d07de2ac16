"""Batches and layers that do not fit are refused; states travel to arrays and back."""

from pathlib import Path

import numpy as np
import pytest
import torch

from encoder import Encoder, numpy_to_state, state_to_numpy
from encoder.errors import BatchError
from tests.encoder.models import loaded, random_ids


@pytest.fixture
def model(small_bert: Path) -> Encoder:
    return loaded(small_bert, "fp32")


def test_what_does_not_fit_is_refused(model: Encoder) -> None:
    for segments, window, says in (
        ([], 0, "needs at least one segment"),
        ([random_ids(3), np.empty(0, np.int64)], 0, "segment 1 has 0 tokens"),
        ([random_ids(513)], 0, "513 tokens"),
        ([np.array([1, 300])], 0, "0 to 299"),
        ([np.array([-1])], 0, "0 to 299"),
        ([random_ids(3)], -1, "window"),
    ):
        with pytest.raises(BatchError, match=says):
            model.batch(segments, window)


def test_layers_that_do_not_exist_are_refused(model: Encoder) -> None:
    batch = model.batch([random_ids(3)])
    for start, stop, says in ((0, 4, "do not exist"), (2, 1, "do not exist"), (-1, 2, "do not exist"), (1, 2, "state")):
        with pytest.raises(BatchError, match=says):
            model.run(batch, start, stop)
    wrong = model.run(model.batch([random_ids(4)]), 0, 1).state
    with pytest.raises(BatchError, match="shape"):
        model.run(type(batch)(batch.ids, batch.lengths, 0, wrong), 1, 2)


@pytest.mark.parametrize("scheme", ["fp32", "bf16", "int8"])
def test_a_state_of_another_type_is_refused(small_bert: Path, scheme: str) -> None:
    model = loaded(small_bert, scheme)
    batch = model.run(model.batch([random_ids(4)]), 0, 1)
    assert batch.state is not None
    other = torch.float32 if batch.state.dtype == torch.bfloat16 else torch.bfloat16
    with pytest.raises(BatchError, match="type"):
        model.run(type(batch)(batch.ids, batch.lengths, 0, batch.state.to(other)), 1, 2)


def test_layer_zero_is_the_embeddings_output(model: Encoder) -> None:
    batch = model.batch([random_ids(7)])
    embedded = model.run(batch, 0, 0)
    assert embedded.state is not None
    assert embedded.state.shape == (7, model.hidden)
    assert batch.state is None


@pytest.mark.parametrize("scheme", ["fp32", "bf16", "int8"])
def test_states_survive_a_store(small_bert: Path, scheme: str) -> None:
    model = loaded(small_bert, scheme)
    batch = model.run(model.batch([random_ids(33), random_ids(5)], 8), 0, 1)
    assert batch.state is not None
    array = state_to_numpy(batch.state)
    assert array.dtype == (np.float32 if scheme == "fp32" else np.uint16)
    kept = np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)  # read-only, as from a file
    back = numpy_to_state(kept)
    assert torch.equal(back, batch.state)
    resumed = model.run(type(batch)(batch.ids, batch.lengths, 8, back), 1, model.layers).state
    expected = model.run(batch, 1, model.layers).state
    assert resumed is not None
    assert expected is not None
    assert torch.equal(resumed, expected)


def test_states_and_arrays_share_memory() -> None:
    state = torch.zeros(2, 3, dtype=torch.bfloat16)
    array = state_to_numpy(state)
    state[0, 0] = 1
    assert array[0, 0] == 0x3F80
    assert numpy_to_state(array).data_ptr() == state.data_ptr()


def test_arrays_that_are_no_states_are_refused() -> None:
    with pytest.raises(BatchError, match="float64"):
        numpy_to_state(np.zeros((1, 1)))
