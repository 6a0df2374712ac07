from pathlib import Path

import pytest
from pydantic import BaseModel

from contract.errors import InputError
from service.errors import SettingsError
from service.settings import Settings, load_settings

DOCS = Path(__file__).parents[2] / "docs" / "configuration.md"
FIELDS = [
    (group, name, field)
    for group, table in Settings.model_fields.items()
    if isinstance(table.annotation, type) and issubclass(table.annotation, BaseModel)
    for name, field in table.annotation.model_fields.items()
]


def toml(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.toml"
    path.write_text(text)
    return path


def test_without_anything_given_the_defaults_of_the_design_hold():
    settings = load_settings(environ={})
    assert (settings.server.host, settings.server.port, settings.server.workers) == ("127.0.0.1", 8000, 1)
    assert settings.server.max_body_bytes == 8 << 20
    assert settings.server.max_candidates == 5000
    assert settings.redis.url == "redis://127.0.0.1:6379/0"
    assert settings.redis.wait_s == 30


def test_flags_win_over_the_environment_over_the_file_over_the_defaults(tmp_path):
    file = toml(tmp_path, "[server]\nport = 1001\nworkers = 2\nhost = 'file'\n")
    environ = {"LONGSIGHT_SERVER__PORT": "1002", "LONGSIGHT_SERVER__WORKERS": "3", "HOME": "/"}
    settings = load_settings({"server": {"port": 1003, "workers": None}}, file=file, environ=environ)
    assert (settings.server.port, settings.server.workers, settings.server.host) == (1003, 3, "file")


def test_the_file_may_be_named_by_the_environment(tmp_path):
    file = toml(tmp_path, "[log]\nlevel = 'debug'\n")
    assert load_settings(environ={"LONGSIGHT_SETTINGS": str(file)}).log.level == "debug"


def test_booleans_are_read_as_people_write_them():
    for text, value in (("true", True), ("0", False), ("no", False)):
        assert load_settings(environ={"LONGSIGHT_REDIS__EMBEDDED": text}).redis.embedded is value


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        ("LONGSIGHT_PORT", "1", "LONGSIGHT_PORT: no such setting"),
        ("LONGSIGHT_SERVR__PORT", "1", "no such group of settings 'servr'"),
        ("LONGSIGHT_SERVER__PROT", "1", "LONGSIGHT_SERVER__PROT: no such setting in group 'server'"),
        ("LONGSIGHT_SERVER__PORT__X", "1", "LONGSIGHT_SERVER__PORT__X: no such setting"),
        ("LONGSIGHT_SERVER__PORT", "http", "LONGSIGHT_SERVER__PORT: .*got 'http'"),
        ("LONGSIGHT_SERVER__PORT", "70000", "less than or equal to 65535"),
        ("LONGSIGHT_RUNTIME__DEVICE", "gpu", "LONGSIGHT_RUNTIME__DEVICE"),
        ("LONGSIGHT_REDIS__URL", "localhost", "LONGSIGHT_REDIS__URL"),
        ("LONGSIGHT_REDIS__READ_TIMEOUT_S", "nan", "LONGSIGHT_REDIS__READ_TIMEOUT_S"),
        ("LONGSIGHT_BATCHING__MAX_QUEUED_CANDIDATES", "10", "would never be let in"),
        ("LONGSIGHT_SETTINGS", "/no/such/file.toml", "not readable as TOML"),
    ],
)
def test_a_wrong_variable_is_refused_by_name(variable, value, message):
    with pytest.raises(SettingsError, match=message):
        load_settings(environ={variable: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nprot = 1\n", r"settings\.toml: server\.prot: no such setting"),
        ("[sever]\nport = 1\n", "no such group of settings 'sever'"),
        ("[sever]\n", "no such group of settings 'sever'"),
        ("port = 1\n", "settings stand in tables"),
        ("[server\n", "not readable as TOML"),
        ("[server]\nport = 'x'\n", r"settings\.toml: server\.port: "),
    ],
)
def test_a_wrong_file_is_refused_with_the_place(tmp_path, text, message):
    with pytest.raises(SettingsError, match=message):
        load_settings(file=toml(tmp_path, text), environ={})


def test_a_wrong_flag_is_named_as_it_was_typed():
    with pytest.raises(SettingsError, match="--port: "):
        load_settings({"server": {"port": -1}}, environ={})


def test_a_token_read_from_a_file_may_end_with_a_line_break():
    assert load_settings(environ={"LONGSIGHT_AUTH__ADMIN_TOKEN": "secret\n"}).auth.admin_token == "secret"


def test_settings_are_wrong_input_and_frozen():
    assert issubclass(SettingsError, InputError)
    with pytest.raises(ValueError, match="frozen"):
        load_settings(environ={}).server.port = 1


@pytest.mark.parametrize(
    ("group", "name", "field"), FIELDS, ids=[f"{group}.{name}" for group, name, _ in FIELDS]
)
def test_every_setting_is_documented_with_its_default_and_description(group, name, field):
    lines = [line for line in DOCS.read_text().splitlines() if line.startswith(f"| `{group}.{name}` ")]
    assert len(lines) == 1, f"docs/configuration.md must have one row for {group}.{name}"
    _, _, default, description, _ = (cell.strip() for cell in lines[0].replace("\\|", "/").split("|"))
    assert default.strip("`") == shown(field.default)
    assert description == field.description


def shown(default):
    if default is None:
        return ""
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_no_setting_is_documented_that_does_not_exist():
    rows = [line.split("`")[1] for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    assert sorted(rows) == sorted(f"{group}.{name}" for group, name, _ in FIELDS)


def test_a_token_that_is_refused_is_not_shown(tmp_path):
    with pytest.raises(SettingsError, match=r"auth\.admin_token") as refused:
        load_settings(file=toml(tmp_path, "[auth]\nadmin_token = 123456789\n"), environ={})
    assert "123456789" not in str(refused.value)
