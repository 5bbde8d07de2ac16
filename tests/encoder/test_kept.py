"""8-bit weights that were made once are read from then on."""

import subprocess
import sys
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


LOAD_TOGETHER = """
import sys, time
import subprocess
import sys
from pathlib import Path

import encoder
from encoder import quantised

folder, keep, number = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
calibration_ids = quantised.calibration_ids

def once_both_are_quantising(*arguments):
    (keep.parent / f"quantising-{number}").touch()
    while not (keep.parent / f"quantising-{1 - number}").exists():
        time.sleep(0.01)
    return calibration_ids(*arguments)[number::2]  # rounding differs between processes; here, by much

quantised.calibration_ids = once_both_are_quantising
print(encoder.load(folder, scheme="int8", device="cpu", keep=keep).digest)
"""


def test_processes_that_quantise_at_once_serve_the_same_weights(splade_tiny: Path, tmp_path: Path) -> None:
    keep = tmp_path / "int8"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", LOAD_TOGETHER, str(splade_tiny), str(keep), str(number)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        digests = [process.communicate(timeout=120)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0]
    assert digests[0] == digests[1]
    (kept,) = keep.iterdir()
    assert encoder.load(kept, device="cpu").digest == digests[0].strip()


def test_where_nothing_can_be_written_weights_are_made_each_time(small_bert: Path, tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    served = encoder.load(small_bert, scheme="int8", device="cpu", keep=blocked)
    assert served.scheme == "int8"


def test_other_schemes_keep_nothing(small_bert: Path, tmp_path: Path) -> None:
    encoder.load(small_bert, scheme="fp32", device="cpu", keep=tmp_path)
    assert not list(tmp_path.iterdir())
