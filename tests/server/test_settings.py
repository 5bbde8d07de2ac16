"""Settings from file, environment and flags: which one holds, and what is said when they are wrong."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from pydantic import ValidationError

from encoder.native.library import folders
from server.app import WARM_UP_CLIENT
from server.auth.clients import Client
from server.auth.keys import default_keys_path
from server.commands.reference import DOCS, renewed, settings_table
from server.config.folders import cache_home
from server.config.load import Configuration, ConfigurationError, Leaf, assignment, dotted, flag, load
from server.config.schema import ModelSettings, ServerSettings, Settings
from server.config.values import is_local, split_address
from server.inference.verify import VERIFIER
from server.rpc.call_gate import HEALTH_CLIENT

WriteFile = Callable[[str], Path]


@pytest.fixture
def write_file(tmp_path: Path) -> WriteFile:
    def write(content: str) -> Path:
        file = tmp_path / "octavo.toml"
        file.write_text(content, "utf-8")
        return file

    return write


def origins(found: Configuration) -> dict[str, str]:
    return {dotted(leaf.path): str(leaf.origin) for leaf in found.values()}


def faults(
    file: Path | None = None, flags: tuple[Leaf, ...] = (), environ: Mapping[str, str] | None = None
) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        load(file, flags, environ)
    return [str(fault) for fault in caught.value.faults]


def test_defaults_listen_on_loopback_alone() -> None:
    settings = Settings()
    assert all(map(is_local, (*settings.server.listen, settings.metrics.listen)))
    assert settings.models == (ModelSettings(path="all-MiniLM-L6-v2"),)


def test_nothing_but_what_is_passed_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OCTAVO_SERVER__MAX_TASKS", "3")
    assert Settings().server.max_tasks == load().settings.server.max_tasks == 16


def test_flag_over_environment_over_file_over_default(write_file: WriteFile) -> None:
    file = write_file("[server]\nmax_tasks = 1\nmax_documents = 1\nmax_reply_bytes = 1\n")
    environ = {"OCTAVO_SERVER__MAX_TASKS": "2", "OCTAVO_SERVER__MAX_DOCUMENTS": "2"}
    found = load(file, [assignment("server.max_tasks=3")], environ)
    server = found.settings.server
    assert (server.max_tasks, server.max_documents, server.max_reply_bytes) == (3, 2, 1)
    told = origins(found)
    assert told["server.max_tasks"] == "flag --set server.max_tasks"
    assert told["server.max_documents"] == "environment OCTAVO_SERVER__MAX_DOCUMENTS"
    assert told["server.max_reply_bytes"] == f"file {file}"
    assert told["server.listen"] == "default"


def test_the_file_may_be_named_by_a_variable_and_a_flag_outranks_it(write_file: WriteFile, tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("[compute]\nthreads = 7\n")
    environ = {"OCTAVO_CONFIG": str(write_file("[compute]\nthreads = 5\n"))}
    assert load(environ=environ).settings.compute.threads == 5
    assert load(other, environ=environ).settings.compute.threads == 7


def test_a_model_is_a_name_or_a_table_and_each_key_has_its_origin(write_file: WriteFile) -> None:
    file = write_file('models = ["a", {path = "./b", window = "none", segmentation = {policy = "fixed"}}]')
    found = load(file)
    assert found.settings.models[0] == ModelSettings(path="a")
    assert found.settings.models[1].window == 0
    told = origins(found)
    assert told["models[1].window"] == told["models[1].segmentation.policy"] == f"file {file}"
    assert told["models[1].scheme"] == told["models[1].segmentation.min_tokens"] == "default"


def test_model_flags_replace_the_list(write_file: WriteFile) -> None:
    found = load(write_file('[[models]]\npath = "a"\nwindow = 5\n'), [flag("models", ["a", "b/c"], "--model")])
    assert [model.served_name for model in found.settings.models] == ["a", "c"]
    assert found.settings.models[0].window == 0


@pytest.mark.parametrize(
    "text",
    ["127.0.0.1:1,[::1]:2", " 127.0.0.1:1 , [::1]:2", '["127.0.0.1:1", "[::1]:2"]'],
    ids=("commas", "blanks", "JSON"),
)
def test_a_list_in_a_variable(text: str) -> None:
    assert load(environ={"OCTAVO_SERVER__LISTEN": text}).settings.server.listen == ("127.0.0.1:1", "[::1]:2")


def test_every_fault_of_every_source_is_told_at_once(write_file: WriteFile) -> None:
    file = write_file('[servr]\nx = 1\n[server]\nlisen = ["a"]\nlevel = "debug"\n[[models]]\nscheme = "int9"\n')
    environ = {
        "OCTAVO_COMPUTE__THREADS": "many",
        "OCTAVO_SERVER_LISTEN": "x",
        "OCTAVO_MODELS__0__PATH": "x",
        "OCTAVO_SERVER__LISTEN": "[oops",
    }
    assert sorted(faults(file, (assignment("server.max_tasks=0"),), environ)) == sorted(
        [
            f"servr: unknown setting; did you mean server? (file {file}, line 1)",
            f"server.lisen: unknown setting; did you mean server.listen? (file {file}, line 4)",
            f"server.level: unknown setting; did you mean log.level? (file {file}, line 5)",
            f"models[0].path: is missing (file {file}, line 6)",
            f"models[0].scheme: must be 'auto', 'int8', 'bf16' or 'fp32' (file {file}, line 7)",
            "models.0.path: models is no table here; set it as a whole (environment OCTAVO_MODELS__0__PATH)",
            "compute.threads: must be a whole number (environment OCTAVO_COMPUTE__THREADS)",
            "server.listen: is neither JSON nor a list parted by commas (environment OCTAVO_SERVER__LISTEN)",
            "server.max_tasks: must be at least 1 (flag --set server.max_tasks)",
            "unknown variable; did you mean OCTAVO_SERVER__LISTEN? (environment OCTAVO_SERVER_LISTEN)",
        ]
    )


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("cache.size_limit_bytes", '"4 gigabytes"', 'must be a number of bytes, or a size such as "4GB" or "4GiB"'),
        ("limits.max_bytes_in_flight", '"much"', 'must be a number of bytes, or a size such as "4GB" or "4GiB"'),
        ("cache.size_limit_bytes", '"1kB"', 'must be at least "1MiB"'),
        ("server.max_document_bytes", "0", "must be at least 1"),
        ("models", '[{path = ""}]', "must not be empty"),
        ("models", '[{path = "a", device = "gpu"}]', "must be auto, cpu or cuda:N"),
        (
            "models",
            '[{path = "hf:tiny"}]',
            "'hf:tiny' is no model of a hub: write hf:ORG/NAME or hf:ORG/NAME@REVISION",
        ),
        ("cache.verify", "2", "must be at most 1"),
        ("cache.cuts", "3", "must be a list"),
        ("cache.enabled", '"perhaps"', "must be true or false"),
        ("cache.time_to_live_seconds", "[]", "must be a number"),
        ("cache.time_to_live_seconds", "0", "must be more than 0"),
        ("server.max_tasks", "1.5", "must be a whole number"),
        ("server.max_tasks", "1e99", "must be a whole number"),
        ("server.tls_key", "3", "must be a path"),
        ("plans", "3", "must be a table of tables"),
        ("plans.Gold", "{}", "must be 1 to 64 lower-case letters, digits, hyphens and underscores"),
    ],
)
def test_faults_are_told_in_plain_words(write_file: WriteFile, setting: str, value: str, message: str) -> None:
    file = write_file(f"{setting} = {value}\n")
    (fault,) = faults(file)
    assert fault.startswith(setting)
    assert fault.endswith(f": {message} (file {file}, line 1)")


def test_faults_name_their_line(write_file: WriteFile) -> None:
    lines = [
        "# [server]",
        "server.max_tasks = 0",
        "[[models]]",
        'path = "a"',
        "[[models]]",
        'path = "b" # scheme = 3',
        "[models.segmentation]",
        "max_tokens = 0",
        '[plans."free"]',
        "weight = 0",
        "[compute]",
        '"threads" = -1',
        "[cache]",
        "cuts = [",
        "  1,",
        "  0,",
        "]",
    ]
    told = {fault.partition(":")[0]: fault.rpartition("line ")[2] for fault in faults(write_file("\n".join(lines)))}
    assert told == {
        "server.max_tasks": "2)",
        "models[1].segmentation.max_tokens": "8)",
        "plans.free.weight": "10)",
        "compute.threads": "12)",
        "cache.cuts[1]": "14)",
    }


def test_a_value_from_elsewhere_has_no_line(write_file: WriteFile) -> None:
    file = write_file("[server]\nmax_tasks = 3\n")
    (fault,) = faults(file, (assignment("server.max_tasks=0"),))
    assert fault == "server.max_tasks: must be at least 1 (flag --set server.max_tasks)"


@pytest.mark.parametrize(
    ("text", "size"),
    [("4GB", 4 * 10**9), ("1.5 GiB", 3 << 29), ("64 MiB", 64 << 20), ("2000kB", 2_000_000), ("2000000B", 2_000_000)],
)
def test_sizes_have_units(text: str, size: int) -> None:
    assert load(environ={"OCTAVO_CACHE__SIZE_LIMIT_BYTES": text}).settings.cache.size_limit_bytes == size
    assert load(None, [assignment(f"cache.size_limit_bytes={text}")]).settings.cache.size_limit_bytes == size


def test_a_broken_file_does_not_hide_other_faults(write_file: WriteFile) -> None:
    file = write_file("[server\n")
    found = faults(file, environ={"OCTAVO_LOG__LEVEL": "loud"})
    assert len(found) == 2
    assert found[0].startswith(f"{file} is not TOML: ")
    assert found[1].startswith("log.level: must be ")


def test_a_file_that_cannot_be_read_is_a_fault_of_who_named_it(tmp_path: Path) -> None:
    gone = tmp_path / "gone.toml"
    assert faults(gone) == [f"cannot read {gone}: No such file or directory (flag --config)"]
    named = faults(environ={"OCTAVO_CONFIG": str(gone)})
    assert named == [f"cannot read {gone}: No such file or directory (environment OCTAVO_CONFIG)"]
    latin = tmp_path / "latin.toml"
    latin.write_bytes(b'models = ["\xe9"]')
    assert faults(latin) == [f"{latin} is not UTF-8 (flag --config)"]


def test_a_value_where_a_table_belongs() -> None:
    assert faults(None, (assignment("server=3"),)) == ["server: must be a table of settings (flag --set server)"]


def test_variables_of_the_client_are_left_alone() -> None:
    assert load(environ={"OCTAVO_SERVER": "example:1", "OCTAVO_API_KEY": "x", "HOME": "/"}).leaves == ()


@pytest.mark.parametrize("address", ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "example.org:1"])
def test_an_address_that_others_reach_must_be_asked_for_by_name(address: str) -> None:
    told = faults(None, (flag("server.listen", [address], "--listen"), flag("metrics.listen", address, "-")))
    assert [line.partition(":")[0] for line in told] == ["server.listen", "metrics.listen"]
    assert "allow_plaintext_remote = true" in told[0]
    assert "allow_remote = true" in told[1]
    allowed = [
        flag("server.listen", [address], "--listen"),
        assignment("server.allow_plaintext_remote=true"),
        assignment("metrics.allow_remote=true"),
        assignment(f"metrics.listen={address}"),
    ]
    assert load(None, allowed).settings.server.listen == (address,)


@pytest.mark.parametrize(
    "address", ["127.0.0.1:0", "127.9.9.9:1", "[::1]:0", "localhost:65535", "unix:/run/x", "unix:x"]
)
def test_local_addresses(address: str) -> None:
    assert ServerSettings(listen=(address,)).listen == (address,)


@pytest.mark.parametrize(
    "address", ["", "x", "127.0.0.1", ":1", "::1:1", "a:70000", "a:-1", "a b:1", "unix:", "unix:" + "x" * 108]
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(ValidationError):
        ServerSettings(listen=(address,), allow_plaintext_remote=True)


def test_addresses_are_split() -> None:
    assert split_address("[::1]:50") == ("::1", 50)
    assert split_address("localhost:0") == ("localhost", 0)


def test_metrics_may_be_off_but_the_server_must_listen() -> None:
    assert load(None, [assignment("metrics.listen=")]).settings.metrics.listen == ""
    assert faults(None, (assignment("server.listen="), assignment("models="))) == [
        "server.listen: at least one address is required (flag --set server.listen)",
        "models: at least one model is required (flag --set models)",
    ]


def test_models_have_names_of_their_own(tmp_path: Path) -> None:
    assert "two models are named 'a'" in faults(None, (assignment(f"models=a,{tmp_path}/a"),))[0]
    assert ModelSettings(path=f"{tmp_path}/a/").served_name == "a"
    with pytest.raises(ValidationError):
        ModelSettings(path="a", name="a@1")


def test_a_name_is_looked_up_in_the_cache_home_and_a_folder_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert ModelSettings(path="a").folder == Path("/caches/octavo/models/a")
    assert ModelSettings(path="./a").folder == Path("a")
    assert ModelSettings(path="~/a").folder == Path.home() / "a"
    assert Settings().cache.dir == Path("/caches/octavo/cache")


@pytest.mark.parametrize("ignored", ["", "relative", "~/tilde", "./here"])
def test_a_folder_of_xdg_that_is_not_absolute_is_ignored(ignored: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("XDG_CACHE_HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(variable, ignored)
    assert cache_home() == Path.home() / ".cache/octavo"
    assert default_keys_path() == Path.home() / ".local/state/octavo/keys.json"
    assert folders()[1] == cache_home() / "native"
    assert default_keys_path({"XDG_STATE_HOME": "/states"}) == Path("/states/octavo/keys.json")


@pytest.mark.parametrize("client", [VERIFIER, HEALTH_CLIENT, WARM_UP_CLIENT])
def test_no_client_of_the_settings_can_be_called_as_one_of_the_server_s_own(client: Client) -> None:
    for name in {client.name, client.tenant}:
        with pytest.raises(ValidationError, match="should match pattern"):
            Settings.model_validate({"clients": {name: {}}})
        with pytest.raises(ValidationError, match="should match pattern"):
            Settings.model_validate({"clients": {"a": {"tenant": name}}})


def test_fewest_tokens_are_at_most_half_of_the_most() -> None:
    told = faults(None, (assignment('models=[{"path": "a", "segmentation": {"min_tokens": 9, "max_tokens": 8}}]'),))
    assert told == ["models[0].segmentation: min_tokens (9) is more than half of max_tokens (8) (flag --set models)"]


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        Settings().server.max_tasks = 1


def test_the_document_tells_what_the_code_does() -> None:
    page = (DOCS / "configuration.md").read_text("utf-8")
    assert page == renewed(page, settings_table()), "run python -m server.commands.reference"


def test_the_document_s_example_is_a_file(write_file: WriteFile) -> None:
    page = (DOCS / "configuration.md").read_text("utf-8")
    found = load(write_file(page.partition("```toml\n")[2].partition("```")[0]))
    assert [model.served_name for model in found.settings.models] == ["all-MiniLM-L6-v2", "e5"]


ACCESS = """
[plans.free]
tokens_per_minute = 5000
[clients.acme]
[clients.globex]
plan = "free"
"""


def test_plans_and_clients_are_tables_by_name(write_file: WriteFile) -> None:
    file = write_file(ACCESS)
    found = load(file, environ={"OCTAVO_PLANS__FREE__WEIGHT": "2"})
    assert found.settings.plans["free"].weight == 2
    assert found.settings.clients.keys() == {"acme", "globex"}, "an empty table is one"
    told = origins(found)
    assert told["plans.free.weight"] == "environment OCTAVO_PLANS__FREE__WEIGHT"
    assert told["plans.free.tokens_per_minute"] == told["clients.globex.plan"] == f"file {file}"
    assert told["clients.acme.plan"] == told["plans.free.priority"] == "default"


def test_faults_of_plans_and_clients_are_named(write_file: WriteFile) -> None:
    wrong = """
    [plans.free]
    weigth = 1
    models = ["gpt"]
    [plans.Gold]
    [clients.acme]
    keys = ["hunter2"]
    """
    told = "\n".join(faults(write_file(wrong)))
    assert "plans.free.weigth: unknown setting; did you mean plans.free.weight?" in told
    assert "plans.Gold: " in told
    assert "clients.acme.keys[0]: a key's record is ID:SALT:DIGEST" in told
    assert "hunter2" not in told
    assert "free.models: unknown model 'gpt'" in faults(write_file('[plans.free]\nmodels = ["gpt"]'))[0]
    assert "acme.plan: unknown plan 'gold'" in faults(write_file('[clients.acme]\nplan = "gold"'))[0]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://u:hunter2@h:6379/0", "redis://***@h:6379/0"),
        ("redis://:p@hunter2@h:6379/0", "redis://***@h:6379/0"),
        ("redis+unix:///run/r.sock?password=hunter2&db=0", "redis+unix:///run/r.sock?password=***&db=0"),
    ],
)
def test_a_storage_s_password_is_not_shown(url: str, shown: str) -> None:
    settings = load(None, [assignment(f"limits.storage={url}")]).settings
    assert str(settings.limits.storage) == shown
    assert "hunter2" not in repr(settings)
    assert settings.limits.storage.get_secret_value() == url
    assert "must be memory, redis://" in faults(None, (assignment("limits.storage=reddis:hunter2"),))[0]
    assert "hunter2" not in faults(None, (assignment("limits.storage=reddis:hunter2"),))[0]


def test_with_a_certificate_other_machines_may_be_let_in() -> None:
    flags = [flag("server.listen", ["0.0.0.0:1"], "--listen"), assignment("server.tls_certificate=c.pem")]
    assert load(None, [*flags, assignment("server.tls_key=k.pem")]).settings.server.listen == ("0.0.0.0:1",)
    assert "must be set together" in faults(None, tuple(flags))[0]
