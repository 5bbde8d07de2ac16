"""8-bit weights that were made once are read from then on."""

from pathlib import Path

import pytest

import encoder
from tests.encoder.models import Make


def test_the_second_load_reads_what_the_first_made(
    small_bert: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encoder.load(small_bert, scheme="int8", device="cpu", keep=tmp_path)
    (kept,) = tmp_path.iterdir()
    monkeypatch.setattr("encoder.quantised.quantise", None)  # nobody quantises any more
    second = encoder.load(small_bert, scheme="int8", device="cpu", keep=tmp_path)
    assert second.layer_digests == first.layer_digests
    assert list(tmp_path.iterdir()) == [kept]


def test_another_original_is_made_anew(make_model: Make, tmp_path: Path) -> None:
    for layers in (1, 2):
        encoder.load(make_model(num_hidden_layers=layers), scheme="int8", device="cpu", keep=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2


def test_where_nothing_can_be_written_weights_are_made_each_time(small_bert: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    served = encoder.load(small_bert, scheme="int8", device="cpu", keep=blocked)
    assert served.scheme == "int8"


def test_other_schemes_keep_nothing(small_bert: Path, tmp_path: Path) -> None:
    encoder.load(small_bert, scheme="fp32", device="cpu", keep=tmp_path)
    assert not list(tmp_path.iterdir())
