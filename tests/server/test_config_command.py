"""`octavo config check` and `show`, as a person types them."""

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from pydantic import SecretStr

from server.commands.config import as_json, as_toml, config
from server.commands.serve import serve
from server.config.load import Configuration, Leaf, Origin, load
from server.config.schema import Settings


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OCTAVO_CONFIG", "OCTAVO_LOG__LEVEL"):
        monkeypatch.delenv(name, raising=False)


def test_check_is_silent_about_nothing_but_success() -> None:
    result = CliRunner().invoke(config, ["check", "--listen", "[::1]:0"])
    assert (result.exit_code, result.output) == (0, "ok: 1 value given, defaults for the rest\n")


def test_check_tells_every_fault_on_a_line_of_its_own_and_exits_with_2(tmp_path: Path) -> None:
    file = tmp_path / "octavo.toml"
    file.write_text('[log]\nlevle = "debug"\n[compute]\nthreads = -1\n')
    result = CliRunner().invoke(
        config, ["check", "--config", str(file), "--listen", "nowhere"], env={"OCTAVO_LOG__LEVEL": "loud"}
    )
    assert result.exit_code == 2
    assert result.stdout == ""
    assert [line.split(": ")[1] for line in result.stderr.splitlines()] == [
        "server.listen[0]",
        "compute.threads",
        "log.level",
        "log.levle",
    ]


def test_show_prints_toml_that_reads_back_as_the_same_settings(tmp_path: Path) -> None:
    arguments = ["--set", 'models=[{"path": "./a", "query_prefix": "q\\"\\u0001é: "}, "b"]', "--listen", "[::1]:0"]
    result = CliRunner().invoke(config, ["show", *arguments], env={"OCTAVO_LOG__LEVEL": "debug"})
    assert result.exit_code == 0
    assert 'listen = ["[::1]:0"]  # flag --listen' in result.output
    assert 'level = "debug"  # environment OCTAVO_LOG__LEVEL' in result.output
    assert "max_tasks = 16  # default" in result.output
    file = tmp_path / "shown.toml"
    file.write_text(result.output, "utf-8")
    again = load(file).settings
    assert again.models[0].query_prefix == 'q"\x01é: '
    assert again.models[1].path == "b"
    assert again.log.level == "debug"
    assert again.server == Settings().server.model_copy(update={"listen": ("[::1]:0",)})


@pytest.mark.parametrize("content", ["", "\n", "# nothing yet\n", "[server]\n"])
def test_a_file_that_sets_nothing_leaves_the_defaults(content: str, tmp_path: Path) -> None:
    file = tmp_path / "octavo.toml"
    file.write_text(content)
    for verb in ("show", "check"):
        result = CliRunner().invoke(config, [verb, "--config", str(file)])
        assert (result.exit_code, result.output) == (0, CliRunner().invoke(config, [verb]).output)


def test_show_as_json_has_a_row_for_every_setting() -> None:
    result = CliRunner().invoke(config, ["show", "--format", "json", "--set", "compute.threads=3"])
    rows = {row["setting"]: (row["value"], row["origin"]) for row in json.loads(result.output)}
    assert rows["compute.threads"] == (3, "flag --set compute.threads")
    assert rows["models[0].path"] == ("all-MiniLM-L6-v2", "default")
    assert rows["cache.dir"][0].endswith("/octavo/cache")


class WithSecret(Configuration):
    def values(self) -> Iterator[Leaf]:
        yield Leaf(("server", "key"), SecretStr("hunter2"), Origin("file", "f"))


def test_secrets_are_masked() -> None:
    for shown in (as_toml(WithSecret(Settings())), as_json(WithSecret(Settings()))):
        assert "hunter2" not in shown
        assert "key" in shown
    assert tomllib.loads(as_toml(WithSecret(Settings()))) == {"server": {"key": "**********"}}


def test_a_slip_in_set_is_a_usage_error() -> None:
    result = CliRunner().invoke(config, ["check", "--set", "threads"])
    assert result.exit_code == 2
    assert "write --set section.key=value" in result.output


def test_serve_refuses_wrong_settings_before_it_loads_anything() -> None:
    result = CliRunner().invoke(serve, ["--listen", "0.0.0.0:1"])
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("octavo: server.listen: 0.0.0.0:1 can be reached from other machines")


def test_commands_come_without_torch_or_grpc() -> None:
    modules = "server.commands.serve, server.commands.config, server.commands.doctor"
    code = f"import sys, {modules}; print({{'torch', 'transformers', 'grpc'}} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "set()\n"
