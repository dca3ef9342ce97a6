"""What strangers meet first is true: documented commands exist, links lead somewhere, files keep their manners."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import click
import pytest

import lanyinglog
from lanyinglog.cli import program

ROOT = Path(__file__).resolve().parent.parent


def _tracked() -> list[Path]:
    """The project's files; where there is no git, those that look like them."""
    try:
        listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        found = [path for kind in ("*.py", "*.md", "*.toml") for path in ROOT.rglob(kind)]
        return [path for path in found if not any(part.startswith(".") for part in path.relative_to(ROOT).parts)]
    return [ROOT / name for name in listed.splitlines() if (ROOT / name).is_file()]


TRACKED = _tracked()
SOURCES = [path for path in TRACKED if path.suffix == ".py"]
DOCUMENTS = [path for path in TRACKED if path.suffix == ".md"]
FILE_LINES_MAX = 500
FUNCTION_LINES_MAX = 50


def _id(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("source", SOURCES, ids=_id)
def test_a_file_says_what_it_owns_and_is_short(source: Path) -> None:
    text = source.read_text()
    tree = ast.parse(text)
    assert ast.get_docstring(tree), f"{source} has no docstring"
    if not source.is_relative_to(ROOT / "lanyinglog"):
        return
    assert text.count("\n") <= FILE_LINES_MAX
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            lines = node.end_lineno - node.lineno + 1
            assert lines <= FUNCTION_LINES_MAX, f"{source}:{node.lineno}: {node.name} has {lines} lines"


@pytest.mark.parametrize("path", TRACKED, ids=_id)
def test_no_file_knows_the_machine_it_was_written_on(path: Path) -> None:
    if path == Path(__file__):
        return
    text = path.read_text(errors="replace")
    assert not re.search(r"/(home|root|Users|work)/", text)
    assert "TO" + "DO" not in text


@pytest.mark.parametrize("document", DOCUMENTS, ids=_id)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", document.read_text()):
        if "://" not in target:
            assert (document.parent / target).exists(), f"{document} links to {target}"


def _commands() -> list[tuple[str, list[str]]]:
    """``(document, words)`` of each command line of ours in a document's code."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        code = (
            "\n".join(re.findall(r"```sh\n(.*?)```", text, re.S)) + "\n" + "\n".join(re.findall(r"`([^`\n]+)`", text))
        )
        for line in code.splitlines():
            match = re.match(r"(?:lanyinglog|python3? -m lanyinglog) (.*)", line.split("  #")[0].strip())
            if match and not re.search(r"[|.]{2,}|[A-Z]{3,}|\[", match[1]):
                found.append((_id(document), shlex.split(match[1])))
    return found


def test_there_are_commands_in_the_documents() -> None:
    assert len(_commands()) >= 6


@pytest.mark.parametrize(("document", "words"), _commands(), ids=lambda value: str(value)[:60])
def test_a_documented_command_parses(document: str, words: list[str]) -> None:
    command: click.Command = program
    context = click.Context(program, info_name="lanyinglog")
    while isinstance(command, click.Group):
        _, words, _ = command.make_parser(context).parse_args(list(words))  # options before the verb
        name, found, words = command.resolve_command(context, words)
        assert found is not None and name is not None
        command, context = found, click.Context(found, parent=context, info_name=name)
    if words:
        command.make_parser(context).parse_args(list(words))


def test_the_version_is_in_the_changelog() -> None:
    assert f"## {lanyinglog.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_each_dependency_has_its_exact_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = {*project["dependencies"], *extras["test"], *extras["metrics"]} - {"lanyinglog[metrics]"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.split("==")[0].lower() for line in lines if "==" in line}
    for requirement in wanted:
        name = re.split(r"[<>=!~ ]", requirement)[0].lower()
        assert name in pinned, f"constraints.txt does not name {name}"


def test_ci_runs_what_the_readme_says() -> None:
    assert "python3 tests" in (ROOT / "README.md").read_text()
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1].endswith("exec python3 tests")


def test_importing_the_package_costs_nothing() -> None:
    code = "import sys, lanyinglog; print(sorted({'anyio', 'trio', 'lmdb', 'click'} & set(sys.modules)))"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
