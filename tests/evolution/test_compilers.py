"""Who runs a compiler that is known to compute wrongly is told so."""

import tomllib
import warnings
from pathlib import Path

import jax
import jaxlib
import pytest
from packaging.requirements import Requirement

from eggroll.evolution import compilers


ROOT = Path(__file__).parent.parent.parent
FAULT = compilers.FAULTS[0]


@pytest.fixture(autouse=True)
def _bad(monkeypatch):
    """A process that runs a bad compiler, and has not been warned."""
    monkeypatch.setattr(jaxlib, "__version__", FAULT.versions[0])
    monkeypatch.setattr(jax, "default_backend", lambda: FAULT.backend)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    compilers.warn_if_known_bad.cache_clear()
    yield
    compilers.warn_if_known_bad.cache_clear()


def warned() -> list[str]:
    """The messages of two calls."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        compilers.warn_if_known_bad()
        compilers.warn_if_known_bad()
    assert all(one.category is RuntimeWarning for one in caught)
    return [str(one.message) for one in caught]


def test_one_warning_names_effect_source_and_remedies():
    (message,) = warned()
    assert f"jaxlib {FAULT.versions[0]} computes wrongly on cpu" in message
    assert FAULT.effect in message
    assert all(source in message for source in FAULT.sources)
    assert "pip install 'jax!=0.10.2' 'jaxlib!=0.10.2'" in message
    assert "XLA_FLAGS=--xla_cpu_experimental_ynn_fusion_type= " in message


def test_a_build_of_ones_own_is_no_other_version(monkeypatch):
    monkeypatch.setattr(jaxlib, "__version__", f"{FAULT.versions[0]}+cuda12")
    assert len(warned()) == 1


@pytest.mark.parametrize("version", ["0.10.1", "0.10.20", "0.11.0", "0.12.0.1"])
def test_other_versions_are_silent_and_start_no_backend(monkeypatch, version):
    monkeypatch.setattr(jaxlib, "__version__", version)
    monkeypatch.setattr(jax, "default_backend", lambda: pytest.fail("started"))
    assert not warned()


@pytest.mark.parametrize("backend", ["gpu", "tpu"])
def test_other_backends_are_silent(monkeypatch, backend):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    assert not warned()


# What XLA made of each of these, with jaxlib 0.10.2: whether its results were right.
@pytest.mark.parametrize(
    ("flags", "is_right"),
    [
        ("{flag}=", True),
        ('{flag}=""', True),
        ("--xla_force_host_platform_device_count=8 {flag}=", True),
        ("{flag}= --xla_force_host_platform_device_count=8", True),
        ("{flag}=dot {flag}=", True),
        ("{flag}= {flag}=dot", False),
        ("{flag}=-dot", False),
        ("--xla_force_host_platform_device_count=8", False),
    ],
)
def test_silent_where_the_flag_is_set_to_nothing(monkeypatch, flags, is_right):
    monkeypatch.setenv("XLA_FLAGS", flags.format(flag=FAULT.flag))
    assert bool(warned()) != is_right


@pytest.mark.parametrize("package", ["jax", "jaxlib"])
def test_the_dependencies_exclude_what_is_known(package):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {one.name: one for one in map(Requirement, project["dependencies"])}
    for fault in compilers.FAULTS:
        assert not any(map(needed[package].specifier.contains, fault.versions))
    assert needed[package].specifier.contains("0.10.1")


@pytest.mark.parametrize("fault", compilers.FAULTS, ids=lambda fault: fault.versions[0])
def test_what_is_known_is_documented(fault):
    page = (ROOT / "docs" / "compilers.md").read_text()
    assert all(one in page for one in (*fault.versions, *fault.sources, fault.flag))
