"""The documentation: the strict build refuses what is broken, and what pages tell to type is accepted."""

import argparse
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kpod_metrics import cli, health, settings
from kpod_metrics.collectors import registered
from kpod_metrics.reference import as_markdown, declared
from monitoring.alerts import ALERTS
from tests import doc_commands
from tests.conftest import REPOSITORY

PAGES = doc_commands.PAGES
TEXTS = sorted({*PAGES, *REPOSITORY.glob("*.md")})
KEYS = {setting.key: setting for setting in settings.catalogue(registered())}
NOT_SETTINGS = {
    "rule_files",
    "basic_auth_users",
    "bearer_tokens",
    "metric_relabel_configs",
    "tls_server_config",
    "scrape_configs",
    "scrape_native_histograms",
    "extraCapabilities",
}
"""Keys of YAML that is Prometheus', or the chart's."""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of what the site is built from."""
    shutil.copytree(REPOSITORY / "docs", tmp_path / "docs")
    shutil.copy(REPOSITORY / "properdocs.yml", tmp_path)
    return tmp_path


def build(tree: Path) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "properdocs", "build", "--config-file", str(tree / "properdocs.yml")]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, check=False, timeout=60)


def test_site(tree: Path) -> None:
    done = build(tree)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    site = tree / "build" / "site"
    for page in (tree / "docs").glob("*.md"):
        text = (site / page.with_suffix(".html").name).read_text()
        assert 'lang="en"' in text
        # Whatever a browser fetches by itself is in the site.
        fetched = re.findall(
            r'<(?:script|img|link rel="(?:stylesheet|shortcut icon)")[^>]*(?:src|href)="([^"]*)"', text
        )
        assert len(fetched) >= 5
        assert not [address for address in fetched if "//" in address]
        # No link leads out of the folder: neither the site nor the agent has what is there.
        assert not re.search(r'href="\.\./', text)


@pytest.mark.parametrize(
    ("page", "added", "said"),
    [
        ("faq", "\n[x](nothing.md)\n", "nothing.md"),
        ("faq", "\n[x](install.md#nothing)\n", "#nothing"),
        ("faq", "\n[x](#nothing)\n", "#nothing"),
        ("faq", "\n[x](/install.md)\n", "/install.md"),
        ("faq", "\n[x](../README.md)\n", "../README.md"),
        ("stray", "# Not in the navigation\n", "stray.md"),
    ],
)
def test_strict_build_refuses(tree: Path, page: str, added: str, said: str) -> None:
    with (tree / "docs" / f"{page}.md").open("a") as file:
        file.write(added)
    done = build(tree)
    assert done.returncode == 1
    assert said in done.stderr
    assert done.stderr.count("WARNING") == 1


def blocks(language: str) -> Iterator[str]:
    return (block.text for block in doc_commands.blocks() if block.language == language)


def commands() -> Iterator[tuple[str, str]]:
    """Each line in a block, and each piece of code in a sentence, that begins with one of our commands."""
    for page in PAGES:
        lines = [line for block in doc_commands.blocks() if block.page == page for line in block.text.splitlines()]
        for said in lines + [said for of, said in doc_commands.in_sentences() if of == page]:
            command = re.sub(r"^(sudo )?(\.venv/bin/)?", "", said)
            # Two spaces are a screen's, which begins with the command's name too.
            if re.match(r"(kpod-metrics|make) [a-z]", command) and "  " not in command.partition("#")[0].rstrip():
                yield page.name, re.sub(r"  +#.*", "", command)


@pytest.mark.parametrize(("page", "command"), sorted(set(commands())))
def test_commands_are_accepted(page: str, command: str) -> None:
    program, *words = shlex.split(command.partition(" | ")[0])
    if program == "make":
        assert words[0] in set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
        if words[0] != "run":
            return
        words = ["run", *(part for word in words[1:] for part in shlex.split(word.removeprefix("ARGS=")))]
    cli._parser().parse_args([word for word in words if word not in {"--help", "--version"}])


def test_every_block_is_of_a_kind_that_is_tried() -> None:
    """A block without a language is for a shell, which can read it; it is run by tests/live/test_docs.py."""
    for block in doc_commands.blocks():
        assert block.language in {"", "yaml", "promql", "text"}, block
        for command in doc_commands.commands(block) if not block.language else ():
            said = subprocess.run(["bash", "-n"], input=command, capture_output=True, text=True, check=False)
            assert said.returncode == 0, f"{block.page.name}:{block.line}: {said.stderr}"


@pytest.mark.parametrize("pattern", [*doc_commands.NOT_HERE, *doc_commands.SERVES, *doc_commands.BESIDE])
def test_named_commands_are_there(pattern: str) -> None:
    assert any(re.match(pattern, command) for page in PAGES for command in doc_commands.of_page(page))


def test_commands_of_a_block() -> None:
    text = "$ one 'a\nnot a prompt\n$ b'   # why\nsaid\n$ two | three\n"
    block = doc_commands.Block(Path("page.md"), 1, "", text)
    assert doc_commands.commands(block) == ["one 'a\nb'", "two | three"]
    plain = doc_commands.Block(Path("page.md"), 1, "", "one 'a\n  b'\n\ntwo \\\n  three  # why\n")
    assert doc_commands.commands(plain) == ["one 'a\n  b'", "two \\\n  three"]


def test_queries_are_accepted(promtool: Path, tmp_path: Path) -> None:
    said = [said for _, said in doc_commands.in_sentences() if re.match(r"(topk|sum|max|count) ?(by )?\(.*\(", said)]
    assert len(said) >= 2
    rules = [{"record": f"a{at}", "expr": text} for at, text in enumerate([*blocks("promql"), *said])]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "docs", "rules": rules}]}))
    done = subprocess.run([promtool, "check", "rules", file], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


def test_there_are_commands() -> None:
    assert {("quickstart.md", "make run"), ("tuning.md", "kpod-metrics run --help")} <= set(commands())
    assert len(set(commands())) >= 20


def flags_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """All that a parser and its commands take."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from flags_of(command)


@pytest.mark.parametrize("page", TEXTS, ids=lambda path: path.name)
def test_files_of_the_tree_are_there(page: Path) -> None:
    """Pages of `docs/` name files outside of it as code: a link would lead to nothing where the pages are served."""
    named = r"[`(]((?:bench|bpf|deploy|docs|helm|monitoring|scripts|src|tests)/[\w./-]+)[`)]"
    for path in re.findall(named, page.read_text()):
        assert (REPOSITORY / path).exists() or "NAME" in path, path


def test_contributors_are_told_commands_that_are_there() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", (REPOSITORY / "CONTRIBUTING.md").read_text(), re.MULTILINE))
    assert named <= targets
    assert {"accept", "build", "check", "lock", "test"} <= named


def test_the_architecture_names_functions_that_are_there() -> None:
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    walk = re.findall(r"^\| `([\w/.]+)` \| (`\w.*?) \|", page, re.MULTILINE)
    assert len(walk) == 15
    for file, functions in walk:
        path = REPOSITORY / file if file.startswith("bpf/") else REPOSITORY / "src" / "kpod_metrics" / file
        for function in re.findall(r"`(\w+)`", functions):
            assert re.search(rf"\b(?:def {function}|{function}|BPF_PROG\({function})\b[(,]", path.read_text()), function


def test_the_architecture_has_the_layers_that_are_checked() -> None:
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    checked = next(one["layers"] for one in contracts if one["layers"][0] == "kpod_metrics.cli")
    page = (REPOSITORY / "docs" / "architecture.md").read_text()
    drawn = page.partition("package, `src/kpod_metrics`:\n\n```text\n")[2].partition("```")[0].splitlines()
    assert [set(re.findall(r"\w+", re.split(r" {2,}", line)[0])) for line in drawn] == [
        set(re.findall(r"kpod_metrics\.(\w+)", layer)) for layer in checked
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_flags_are_there(page: Path) -> None:
    """A flag in code is one of ours, or of the program that the code begins with."""
    ours = set(flags_of(cli._parser()))
    for code in re.findall(r"`(--[a-z][^`]*)`", page.read_text()):
        flag = re.split(r"[ =]", code)[0]
        assert flag in ours | {"--set", "--require-hashes"}, code


def keys_of(document: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in document.items():
        if isinstance(value, dict) and prefix + key not in KEYS:
            yield from keys_of(value, f"{prefix}{key}_")
        else:
            yield prefix + key


def test_settings_in_yaml_are_there() -> None:
    found = [yaml.safe_load(text) for text in blocks("yaml")]
    ours = [document for document in found if not NOT_SETTINGS & document.keys()]
    assert len(ours) >= 3
    for document in ours:
        assert set(keys_of(document)) <= KEYS.keys()


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_values_of_the_chart_are_there(page: Path) -> None:
    values = yaml.safe_load((REPOSITORY / "helm" / "kpod-metrics" / "values.yaml").read_text())
    for path in re.findall(r"(?:--set |`)([a-z]\w*(?:\.\w+)+)=(?!NODE)", page.read_text()):
        first, *rest = path.split(".")
        if first == "config":  # any setting
            assert "_".join(rest) in KEYS, path
            continue
        here: Any = values
        for part in path.split("."):
            assert part in here, path
            here = here[part]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_an_error_is_not_only_its_mean(page: Path) -> None:
    """Of quantiles: where a page says how far off they are on average it says how far at most."""
    text = " ".join(page.read_text().split())
    assert "about one per cent" not in text
    assert "within a tenth" not in text
    assert text.count("% off on average") == len(re.findall(r"% off on average(?:,| and) \[?11 % at most", text))


def test_there_is_authentication() -> None:
    text = " ".join((REPOSITORY / "docs" / "faq.md").read_text().split())
    assert "no authentication" not in text
    assert "`--web-config-file` adds TLS, client certificates, users and tokens" in text


def test_what_pip_installs_is_there() -> None:
    """This package is on no index: pages install what it depends on, or a path."""
    with (REPOSITORY / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    ours = {re.split(r"[><=]", one)[0] for extra in ("gpu",) for one in project["optional-dependencies"][extra]}
    said = [name for page in PAGES for name in re.findall(r"pip install ([^\n`]+)", page.read_text())]
    assert said
    for names in said:
        assert set(shlex.split(names)) <= ours, names


def test_sources_of_the_programs_statistics() -> None:
    """They come by bpf_obj_get_info_by_fd(), as kernel/libbpf.py reads them."""
    assert [metric.source for metric in health.PROGRAMS.metrics] == [
        f"{field} in struct bpf_prog_info" for field in ("run_time_ns", "run_cnt", "recursion_misses")
    ]


def test_every_metric_has_advice() -> None:
    alerts = {alert.name for alert in ALERTS}
    names = {metric.name for _, _, metric in declared()}
    for _, _, metric in declared():
        assert metric.advice.endswith("."), metric.name
        assert len(metric.advice) <= 240, metric.name
        assert set(re.findall(r"\bKpod\w+", metric.advice)) <= alerts
        assert set(re.findall(r"\b(?:kpod|process)_\w+", metric.advice)) <= names
        assert metric.name not in metric.advice


def test_advice_links_to_the_runbook() -> None:
    text = as_markdown()
    assert "(`KpodOomKill`" not in text
    assert "[KpodOomKill](runbook.md#kpodoomkill) fires for each: find out" in text
    assert "Divide by `kpod_cpu_periods_total`. Above" in text
    assert "`kpod-metrics check` say why" in text


def test_nothing_leads_to_an_account_that_is_not_ours() -> None:
    """The article's author has a project of the same name; its image and its pages are other ones."""
    done = subprocess.run(
        ["git", "grep", "-I", "-l", "pjs" + "7678", "--", ".", ":!docs/comparison.md"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, ""), done.stderr


@pytest.mark.parametrize("page", ["README.md", "docs/install.md", "docs/quickstart.md", "helm/kpod-metrics/README.md"])
def test_the_image_comes_before_helm_install(page: str) -> None:
    text = (REPOSITORY / page).read_text()
    assert 0 < text.index("make image") < text.index("kind load image-archive") < text.index("helm install")
    for block in re.findall(r"^helm install (?:.*\\\n)*.*", text, re.MULTILINE):
        assert "--set image.repository=" in block
