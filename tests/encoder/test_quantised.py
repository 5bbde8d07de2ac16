"""8 bits: close to fp32, a quarter of its size, and the same from a folder of its own."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

import encoder
from encoder import Encoder
from encoder.errors import DamagedFileError, FolderError, SchemeError
from encoder.folder import QUANTISED, describe
from encoder.heads.pooling import pool
from encoder.layers import Linear
from encoder.ops.reference import Reference
from encoder.quantise import OUTLIERS, SIGNED, quantise_linear, quantise_rows
from encoder.quantised import read, save
from server.fetch.manifest import eight_bits
from tests.encoder.models import loaded

LICENSE = Path(__file__).parents[2] / "LICENSE"


def vectors(model: Encoder, segments: list[NDArray[np.int64]]) -> NDArray[np.float32]:
    state = model.run(model.batch(segments), 0, model.layers).state
    assert state is not None
    found = pool(state, [len(segment) for segment in segments], "mean")
    unit: NDArray[np.float32] = found / np.linalg.norm(found, axis=1, keepdims=True)
    return unit


def test_the_default_model_is_quantised_to_the_weights_of_the_manifest(minilm: Path) -> None:
    """On any machine: nothing here depends on the order in which it adds."""
    assert loaded(minilm, "int8").digest == eight_bits()[minilm.name]


@pytest.mark.parametrize("isa", ["auto", "reference"])
def test_segment_vectors_are_close_to_fp32_on_text_that_was_not_calibrated_on(minilm: Path, isa: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(minilm)
    words = LICENSE.read_text("utf-8").split()
    parts = [" ".join(words[first : first + 150]) for first in range(0, len(words) - 150, 150)]
    segments = [np.array(tokenizer(part, truncation=True, max_length=512)["input_ids"]) for part in parts]
    model = loaded(minilm, "int8", isa)
    cosines = (vectors(loaded(minilm, "fp32"), segments) * vectors(model, segments)).sum(1)
    assert len(cosines) >= 8
    assert cosines.mean() >= 0.9996
    assert cosines.min() >= 0.9994


def test_it_holds_a_quarter_of_the_bytes(minilm: Path) -> None:
    eight, full = loaded(minilm, "int8"), loaded(minilm, "fp32")
    assert eight.layer_bytes <= 0.28 * full.layer_bytes
    assert eight.layer_bytes + eight.embedding_bytes <= 0.30 * (full.layer_bytes + full.embedding_bytes)
    # fp32's are what the checkpoint holds, save the tables' unused rows.
    assert full.layer_bytes + full.embedding_bytes > 0.98 * (minilm / "model.safetensors").stat().st_size


def test_columns_with_outliers_are_found_and_kept_beside() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(300, 64, generator=draw)
    large = torch.arange(1, 64, 4)[:OUTLIERS]
    x[:, large] *= 40
    linear = Linear(torch.randn(48, 64, generator=draw), torch.zeros(48))
    found = quantise_linear(linear, x)
    assert found.columns.tolist() == large.tolist()
    assert not found.weight[:, large].any()
    assert torch.equal(found.outlier_weight, linear.weight[:, large].bfloat16().t())


def test_rounding_that_makes_up_for_itself_beats_rounding_to_nearest() -> None:
    draw = torch.Generator().manual_seed(0)
    # Inputs that move together, as a model's do, around a mean.
    x = torch.randn(600, 24, generator=draw) @ torch.randn(24, 160, generator=draw) + 3
    linear = Linear(torch.randn(96, 160, generator=draw), torch.zeros(96))
    seen, unseen = x[:400], x[400:]
    found = quantise_linear(linear, seen)
    factor = found.factor
    kept = linear.weight / torch.where(factor > 0, factor, torch.inf)
    nearest, scale = quantise_rows(kept)
    torch.testing.assert_close(scale, found.scale)
    outliers = unseen[:, found.columns] @ found.outlier_weight.float()

    def error(weight: torch.Tensor, bias: torch.Tensor) -> float:
        result = (unseen * factor) @ (weight * scale[:, None]).t() + outliers + bias
        return float((result - linear(unseen)).square().mean())

    assert error(found.weight, found.bias) < 0.5 * error(nearest, linear.bias)
    assert error(found.weight, found.bias) < 0.5 * error(found.weight, linear.bias)


def test_inputs_of_very_different_sizes_are_brought_closer() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(600, 160, generator=draw) * torch.logspace(-1, 0.6, 160)
    linear = Linear(torch.randn(96, 160, generator=draw), torch.zeros(96))
    found = quantise_linear(linear, x[:400])
    smooth = found.factor > 0
    assert (~smooth).nonzero().flatten().tolist() == found.columns.tolist()
    sizes = x.square().mean(0).sqrt()[smooth]
    smoothed = sizes * found.factor[smooth]
    assert smoothed.max() / smoothed.min() < 0.7 * sizes.max() / sizes.min()
    form = Reference()
    packed = found.pack(form, SIGNED)
    unseen = x[400:].bfloat16()
    expected = linear(unseen.float())
    y = form.linear(form.quantise(unseen, packed.input), packed).float()
    assert (y - expected).norm() < 0.01 * expected.norm()


def test_a_layer_whose_inputs_never_vary_is_quantised() -> None:
    linear = Linear(torch.ones(4, 32), torch.zeros(4))
    found = quantise_linear(linear, torch.zeros(10, 32))
    form = Reference()
    packed = found.pack(form, SIGNED)
    x = torch.ones(1, 32, dtype=torch.bfloat16)
    y = form.linear(form.quantise(x, packed.input), packed).float()
    assert torch.allclose(y, torch.full((1, 4), 32.0), rtol=0.01)


@pytest.fixture
def eight(small_bert: Path, tmp_path: Path) -> Path:
    (source := tmp_path / "source").mkdir()
    shutil.copytree(small_bert, source, dirs_exist_ok=True)
    (source / "LICENSE").write_text("Apache License\n Version 2.0", "utf-8")
    save(source, tmp_path / "eight")
    return tmp_path / "eight"


def test_a_saved_model_is_the_same_without_its_original(small_bert: Path, eight: Path) -> None:
    first, again = loaded(small_bert, "int8"), encoder.load(eight, device="cpu")
    assert again.scheme == "int8"
    assert again.layer_digests == first.layer_digests
    assert again.numerics(first.layers) == first.numerics(first.layers)
    assert not (eight / "model.safetensors").exists()
    assert describe(eight).licence == "Apache-2.0"
    assert (eight / QUANTISED).stat().st_size < 0.42 * (small_bert / "model.safetensors").stat().st_size


def test_a_saved_model_serves_in_8_bits_alone(eight: Path, tmp_path: Path) -> None:
    with pytest.raises(SchemeError, match="only 8-bit weights"):
        encoder.load(eight, scheme="fp32")
    with pytest.raises(FolderError, match="already in 8 bits"):
        save(eight, tmp_path / "again")
    with pytest.raises(FolderError, match="exists already"):
        save(eight, eight)


def test_damaged_files_are_refused(eight: Path) -> None:
    file = eight / QUANTISED
    whole = load_file(file)
    written = {"format": "octavo-int8", "version": "3"}
    columns = "layers.1.up.columns"
    for tensors, metadata, says in (
        ({name: tensor for name, tensor in whole.items() if name != "layers.2.mix.scale"}, written, "mix.scale"),
        (whole | {columns: whole[columns] + 64}, written, "columns"),
        (whole | {columns: whole[columns].flip(0)}, written, "columns"),
        (whole | {"layers.1.up.factor": torch.ones_like(whole["layers.1.up.factor"])}, written, "factor"),
        (whole | {"layers.1.up.factor": -whole["layers.1.up.factor"]}, written, "factor"),
        (whole | {"layers.0.qkv.weight": whole["layers.0.qkv.weight"].float()}, written, "qkv.weight"),
        (whole, written | {"version": "1"}, "version"),
    ):
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, file, metadata=metadata)
        with pytest.raises(DamagedFileError, match=says):
            encoder.load(eight, device="cpu")
    save_file(whole, file, metadata=written)
    file.write_bytes(file.read_bytes()[:-8])
    with pytest.raises(DamagedFileError, match="truncated"):
        encoder.load(eight, device="cpu")


def test_nothing_is_left_of_a_model_that_could_not_be_written(tmp_path: Path, small_bert: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(small_bert, source)
    (source / "model.safetensors").write_bytes(b"no")
    with pytest.raises(DamagedFileError):
        save(source, tmp_path / "out" / "eight")
    assert list(tmp_path.iterdir()) == [source]


def test_the_command_writes_a_folder_and_says_what_is_wrong(small_bert: Path, tmp_path: Path) -> None:
    from server.commands.quantize import quantize

    out = tmp_path / "eight"
    done = CliRunner().invoke(quantize, [str(small_bert), str(out)])
    assert done.exit_code == 0, done.output
    assert list(read(out, loaded(small_bert, "int8").architecture))
    again = CliRunner().invoke(quantize, [str(small_bert), str(out)])
    assert again.exit_code == 1
    assert "exists already" in again.output
