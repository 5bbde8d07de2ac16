"""Scheme and kernels are chosen by what is exact here and by settings, and the choice says why none faster."""

from typing import get_args

import pytest

from encoder.errors import SchemeError
from encoder.native import library
from encoder.native.core import runs_here
from encoder.ops import select
from encoder.ops.native import Native, NativeUnavailableError
from encoder.ops.reference import Reference
from encoder.ops.select import choose
from server.config.schema import ComputeSettings
from tests.encoder import native_forms


@pytest.fixture
def without_native(monkeypatch: pytest.MonkeyPatch) -> None:
    def unavailable(isa: str) -> None:
        raise NativeUnavailableError("the native core is not built")

    monkeypatch.setattr(select, "best", unavailable)


@pytest.mark.usefixtures("without_native")
def test_without_the_native_core_fp32_serves_and_says_why() -> None:
    choice = choose("auto", "cpu")
    assert (choice.scheme, choice.operations) == ("fp32", None)
    assert "not built" in choice.reason
    assert "fp32" in choice.kernels


@pytest.mark.parametrize("form", native_forms.fastest())
def test_products_that_are_not_exact_never_serve(form: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "exact", lambda *_: False)
    choice = choose("auto", "cpu")
    assert (choice.scheme, choice.operations) == ("fp32", None)
    assert "not exact here" in choice.reason


@pytest.mark.usefixtures("without_native")
def test_8_bits_by_name_are_right_everywhere_if_slow() -> None:
    choice = choose("int8", "cpu")
    assert (choice.scheme, type(choice.operations)) == ("int8", Reference)
    assert "not built" in choice.reason


@pytest.mark.parametrize("form", native_forms.forms())
def test_settings_choose_the_form(form: str) -> None:
    if form in library.EMULATED:
        with pytest.raises(SchemeError, match=form):
            choose("auto", "cpu", form)
        return
    chosen = choose("auto", "cpu", form).operations
    assert isinstance(chosen, Native)
    assert chosen.form == form


def test_plain_pytorch_serves_8_bits_by_name_alone() -> None:
    assert type(choose("int8", "cpu", "reference").operations) is Reference
    assert "requested" in choose("auto", "cpu", "reference").reason


def test_a_form_that_this_machine_cannot_run_is_refused() -> None:
    try:
        missing = [form for form in library.forms() if not runs_here(form)]
    except NativeUnavailableError as error:
        pytest.skip(str(error))
    for form in missing:
        with pytest.raises(SchemeError, match=form):
            choose("auto", "cpu", form)
    with pytest.raises(SchemeError, match="magic"):
        choose("auto", "cpu", "magic")


@pytest.mark.parametrize("scheme", ["bf16", "fp32"])
def test_another_scheme_by_name_says_that_it_was_asked_for(scheme: str) -> None:
    choice = choose(scheme, "cpu")
    assert choice.scheme == scheme
    assert "requested" in choice.reason


def test_the_setting_offers_every_form_that_may_serve() -> None:
    assert {*get_args(ComputeSettings.model_fields["isa"].annotation)} == {*select.ISAS}
