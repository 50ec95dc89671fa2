"""Settings: what wins, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from genserve.config import Settings, load_settings
from genserve.errors import CallerError


def a_file(folder: Path, text: str) -> Path:
    path = folder / "genserve.toml"
    path.write_text(text)
    return path


def test_nothing_given_means_the_defaults() -> None:
    assert load_settings(None, {}) == Settings()


def test_a_file_sets_nested_keys(tmp_path: Path) -> None:
    settings = load_settings(a_file(tmp_path, 'planner = "srtf"\n[http]\nport = 9000\n'), {})
    assert (settings.planner, settings.http.port) == ("srtf", 9000)


def test_a_variable_wins_over_the_file(tmp_path: Path) -> None:
    path = a_file(tmp_path, "[http]\nport = 9000\n")
    assert load_settings(path, {"GENSERVE_HTTP__PORT": "9001"}).http.port == 9001


def test_api_keys_in_a_variable_are_separated_by_commas() -> None:
    assert load_settings(None, {"GENSERVE_HTTP__API_KEYS": "one,two"}).http.api_keys == ("one", "two")


def test_a_parallel_backend_that_there_is_not_is_refused() -> None:
    assert load_settings(None, {"GENSERVE_CLUSTER__PARALLEL_BACKEND": "xfuser"}).cluster.parallel_backend == "xfuser"
    with pytest.raises(CallerError, match="parallel_backend"):
        load_settings(None, {"GENSERVE_CLUSTER__PARALLEL_BACKEND": "magic"})


@pytest.mark.parametrize("name", ["", "a b", "a/b", "a\n", "é", "x" * 65])
def test_a_cells_name_has_letters_digits_hyphens_and_underscores(name: str) -> None:
    assert load_settings(None, {"GENSERVE_CLUSTER__NAME": "Team_1-b"}).cluster.name == "Team_1-b"
    with pytest.raises(CallerError, match=r"cluster\.name"):
        load_settings(None, {"GENSERVE_CLUSTER__NAME": name})


@pytest.mark.parametrize("prefix", ["", "images", "/images/", "//", "/a b", "/{x}", "/-", "/a\n"])
def test_a_route_prefix_is_a_path_that_clients_can_write(prefix: str) -> None:
    assert load_settings(None, {"GENSERVE_HTTP__ROUTE_PREFIX": "/team/images"}).http.route_prefix == "/team/images"
    with pytest.raises(CallerError, match=r"http\.route_prefix"):
        load_settings(None, {"GENSERVE_HTTP__ROUTE_PREFIX": prefix})


def test_paths_are_read_from_variables() -> None:
    assert load_settings(None, {"GENSERVE_MODELS_DIR": "/models"}).models == Path("/models")


@pytest.mark.parametrize("text", ["plannner = 'edf'\n", "[http]\nprot = 1\n", "[http]\nport = 'x'\n", "not toml"])
def test_a_key_that_cannot_be_read_is_an_error_that_names_the_file(tmp_path: Path, text: str) -> None:
    path = a_file(tmp_path, text)
    with pytest.raises(CallerError, match=str(path)) as refusal:
        load_settings(path, {})
    assert refusal.value.code == "invalid_config"


def test_an_unknown_variable_is_an_error() -> None:
    with pytest.raises(CallerError, match="unknown field"):
        load_settings(None, {"GENSERVE_HTPP__PORT": "1"})


def test_the_database_is_in_the_data_directory_unless_named() -> None:
    assert Settings(data_dir=Path("/data")).database == "sqlite:////data/genserve.db"
    assert Settings(database_url="postgresql+psycopg://host/name").database == "postgresql+psycopg://host/name"


@pytest.mark.parametrize(
    "text",
    [
        "[http]\nport = 99999\n",
        "[limits]\nmax_queued = 0\n",
        "[cluster]\nworkers = -1\n",
        "[cluster]\ndevice = 'tpu'\n",
        "[durability]\ncheckpoint_every_steps = 0\n",
        "[admission]\nfill = 1.5\n",
        "[telemetry]\nlog_level = 'loud'\n",
    ],
)
def test_a_value_out_of_its_range_is_refused_by_the_path_of_its_key(tmp_path: Path, text: str) -> None:
    section, key = text.split("]")[0][1:], text.split("\n")[1].split()[0]
    with pytest.raises(CallerError, match=rf"{section}\.{key}"):
        load_settings(a_file(tmp_path, text), {})
