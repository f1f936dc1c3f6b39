"""What the caches of this machine hold of a dataset of the hub, for when the hub cannot be asked.

Two caches may hold a set: Arrow files that `datasets` prepared (`datasets/owner___name/<config>/<version>/<commit>`),
and the set's own files as `hf download` or `datasets` left them (`hub/datasets--owner--name/snapshots/<commit>`, with a
file under `refs` for each branch and tag that was asked for).

`datasets` alone opens what it prepared last, whatever revision or configuration is asked for. Here the commit and the
configuration are settled first, and what is opened is that or nothing.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import yaml

from vlm_prep.core.errors import InputError

COMMIT: Final = re.compile(r"[0-9a-f]{40}")
MEDIA_SETS: Final = ("webdataset", "audiofolder", "videofolder")
"""Builders of `datasets` whose sets are files of media."""
_SHORT: Final = re.compile(r"[0-9a-f]{7,40}")
_SHARD: Final = re.compile(r"(.*-)\d{5}(-of-(\d{5}).*)")


class HubCache:
    """A set in the caches."""

    def __init__(self, name: str) -> None:
        import datasets
        from datasets.naming import camelcase_to_snakecase
        from huggingface_hub import constants

        *owner, own = name.split("/")
        self.name = name
        self.own_name: str = camelcase_to_snakecase(own)
        self._prepared = Path(datasets.config.HF_DATASETS_CACHE).expanduser() / "___".join([*owner, self.own_name])
        self._files = Path(constants.HF_HUB_CACHE).expanduser() / f"datasets--{name.replace('/', '--')}"

    def commit(self, revision: str | None) -> str:
        """Return the commit that a branch, a tag or the beginning of a commit meant when it was last asked for.

        Args:
            revision: None is the main branch.

        Raises:
            InputError: the caches do not tell, or hold nothing of the set.
        """
        held = sorted({each.name for each in [*self._prepared.glob("*/*/*"), *self._files.glob("snapshots/*")]})
        held = [commit for commit in held if COMMIT.fullmatch(commit)]
        ref = self._files / "refs" / (revision or "main")
        if revision is not None and _SHORT.fullmatch(revision):
            meant = [commit for commit in held if commit.startswith(revision)]
        elif ref.is_file():
            meant = [ref.read_text().strip()]
        else:
            meant = held if revision is None else []
        meant = [commit for commit in meant if commit in held]
        if len(meant) == 1:
            return meant[0]
        asked = "" if revision is None else f" at {revision}"
        hint = "Load it once with a network, or `hf download --repo-type dataset`."
        if held:
            hint = f"The cache has the commits {', '.join(held)}: name one, hf:{self.name}@COMMIT, or load it once."
        raise InputError(f"hf:{self.name}: the hub cannot be asked, and is not known from the cache{asked}", hint)

    def snapshot(self, commit: str) -> Path:
        """Return the folder of the set's own files of a commit; need not be there."""
        return self._files / "snapshots" / commit

    def builder(self, commit: str, subset: str | None) -> Any:
        """Return the library's builder over what the caches hold of a commit.

        Raises:
            InputError: they hold no such configuration, or not all of its files.
        """
        from datasets.packaged_modules.cache.cache import Cache

        configs = {each.parent.parent.name: each.parent.name for each in sorted(self._prepared.glob(f"*/*/{commit}"))}
        snapshot = self.snapshot(commit)
        wanted = subset or _default_config(snapshot / "README.md", list(configs))
        if wanted in configs:
            builder: Any = Cache(
                repo_id=self.name, dataset_name=self.own_name, config_name=wanted, version=configs[wanted], hash=commit
            )
            return builder
        if wanted is None and configs:
            names = ", ".join(configs)
            raise InputError(f"hf:{self.name}: which configuration is its own is not known", f"`subset`: {names}.")
        hint = "Load it once with a network." + (f" Prepared are: {', '.join(configs)}." if configs else "")
        if not snapshot.is_dir():
            raise InputError(f"hf:{self.name}: {subset or 'its own configuration'} is not in the cache", hint)
        self._require_whole(snapshot)
        import datasets

        with _named(snapshot, self.own_name) as folder:
            try:
                builder = datasets.load_dataset_builder(str(folder), subset)
            except (
                OSError,
                StopIteration,
                datasets.exceptions.DatasetsError,
            ) as error:  # StopIteration: no file at all
                what = f"hf:{self.name}: the cache does not hold the files of {subset or 'its own configuration'}"
                raise InputError(f"{what} {' '.join(str(error).split())[:200]}".strip(), hint) from error
            if builder.name in MEDIA_SETS:  # its files may be read where they lie, and not by a link that is gone
                return datasets.load_dataset_builder(str(snapshot), subset)
            builder.download_and_prepare()
            return builder

    def _require_whole(self, snapshot: Path) -> None:
        """Raise where a download did not end, as far as that can be seen."""
        hint = "Download it again."
        if left := next(self._files.glob("blobs/*.incomplete"), None):
            raise InputError(
                f"hf:{self.name}: a download into the cache did not end: {left}", f"{hint[:-1]}, or delete it."
            )
        files = (str(file.relative_to(snapshot)) for file in snapshot.rglob("*") if file.exists())
        series = Counter((found[1], found[2], int(found[3])) for each in files if (found := _SHARD.fullmatch(each)))
        for (start, end, count), held in sorted(series.items()):
            if held != count:
                what = f"{held} of the {count} files {start}...{end}"
                raise InputError(f"hf:{self.name}: its copy in the cache holds {what}", hint)


@contextmanager
def _named(snapshot: Path, name: str) -> Iterator[Path]:
    """Give a snapshot's folder the set's own name, by which `datasets` names what it prepares."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder, name)
        link.symlink_to(snapshot, target_is_directory=True)
        yield link


def _default_config(card: Path, known: list[str]) -> str | None:
    """Return the configuration that is read where none is named, as `datasets` chooses it; None where it is not known.

    Args:
        card: the set's README.md; need not exist.
        known: the configurations that were prepared.
    """
    said = _card(card)
    configs = [each for each in said.get("configs") or () if isinstance(each, dict)]
    infos = said.get("dataset_info") or []
    infos = [each for each in (infos if isinstance(infos, list) else [infos]) if isinstance(each, dict)]
    names = {str(each.get("config_name", "default")): each.get("default") is True for each in configs or infos}
    chosen = [name for name, default in names.items() if len(names) == 1 or name == "default" or default]
    if chosen:
        return chosen[0] if len(chosen) == 1 else None
    return "default" if known == ["default"] else None


def _card(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    _, mark, rest = text.partition("---\n")
    try:
        said = yaml.safe_load(rest.partition("\n---")[0]) if mark else None
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date that is none
        return {}
    return said if isinstance(said, dict) else {}
