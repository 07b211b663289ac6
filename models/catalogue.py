"""The catalogue: finds model folders in zoo directories, verifies them, and records why it refuses the others.

    <zoo>/<family>/<name>/{model.onnx, manifest.json, README.md}

Model ids are `<family>/<name>`. A teacher also has training-free solver variants, such as `<family>/teacher@ddim-016`, for
any step count up to its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from models.manifest import GRAPH, MANIFEST, Manifest, ManifestError, read_manifest
from models.plan import SAMPLERS, Plan, own_plan, relabel
from models.subsequence import uniform_phi

_MAX_RESOLVED = 256  # plans kept in memory. A step takes 56 bytes, so 256 plans of 1024 steps take 14 MB.
_VARIANT = re.compile(r"(?P<sampler>[a-z]+)-(?P<steps>[0-9]{1,6})")


class UnknownModelError(LookupError):
    """A model or variant that does not exist; the message says what there is."""


@dataclass(frozen=True)
class Entry:
    """A verified model folder. version: 1 for the first entry of its id in this process, 2 for the second, and so on."""

    folder: Path
    manifest: Manifest
    size: int = 0  # bytes of the graph
    version: int = 1

    @property
    def id(self) -> str:
        return self.manifest.id

    @property
    def key(self) -> str:
        """A name unique among versions: the id, or `<family>/<name>#2` and so on for versions loaded while serving."""
        return self.id if self.version == 1 else f"{self.id}#{self.version}"

    @property
    def digest(self) -> str:
        """Hex sha256 of the manifest. It covers the weights too, because the manifest holds their sha256."""
        return hashlib.sha256(self.manifest.model_dump_json().encode()).hexdigest()

    @property
    def graph(self) -> Path:
        return self.folder / GRAPH

    def plan(self) -> Plan:
        """Return the model's own plan: its own sampler over all of its steps, with its own labels."""
        manifest = self.manifest
        return own_plan(manifest.sampler, manifest.alpha_bar_table, manifest.label_table)


@dataclass(frozen=True)
class Refusal:
    """A folder that is not served, with the reason. shadowed: the folder is valid, but an earlier zoo has the same id."""

    folder: Path
    reason: str
    shadowed: bool = False


@dataclass(frozen=True)
class Resolved:
    """A resolved model id: the entry that holds the weights, and the plan to run on them."""

    id: str
    entry: Entry
    sampler: str
    plan: Plan


@dataclass
class Catalogue:
    """The entries by id, in order of discovery, and the refused folders. It is not thread-safe."""

    entries: Mapping[str, Entry] = field(default_factory=dict)
    refusals: tuple[Refusal, ...] = ()
    _resolved: dict[str, Resolved] = field(default_factory=dict, repr=False, compare=False)

    def resolve(self, model_id: str) -> Resolved:
        """Find the entry and plan of `<family>/<name>` or `<family>/<teacher>@<sampler>-<steps>`.

        Recent ids are kept, so that requests with the same id share one object. Raises UnknownModelError for any other id: it
        never substitutes another model.
        """
        base, at, variant = model_id.partition("@")
        entry = self.entries.get(base)
        if entry is None:
            known = ", ".join(self.entries) or "none"
            raise UnknownModelError(f"The model {model_id!r} does not exist. Models here: {known}.")
        if not at:
            return self._keep(model_id, lambda: Resolved(model_id, entry, entry.manifest.sampler, entry.plan()))
        if entry.manifest.kind != "teacher":
            raise UnknownModelError(f"{base!r} is a student; solver variants (@ddim-016, ...) exist for teachers only.")
        match = _VARIANT.fullmatch(variant)
        if match is None or match["sampler"] not in SAMPLERS:
            choices = ", ".join(f"@{name}-016" for name in SAMPLERS)
            raise UnknownModelError(f"{variant!r} is no solver variant; write one as {choices}.")
        steps = int(match["steps"])
        if not 1 <= steps <= entry.manifest.steps:
            raise UnknownModelError(f"{model_id!r}: the steps must be between 1 and {entry.manifest.steps}.")
        sampler = match["sampler"]
        canonical = f"{base}@{sampler}-{steps:03d}"
        return self._keep(canonical, lambda: Resolved(canonical, entry, sampler, variant_plan(entry.manifest, sampler, steps)))

    def replace(self, entries: Mapping[str, Entry], refusals: tuple[Refusal, ...] | None = None) -> None:
        """Serve these entries from now on. A Resolved of before keeps its entry. refusals: None keeps the present ones."""
        self.entries = entries
        self.refusals = self.refusals if refusals is None else refusals
        self._resolved.clear()

    def _keep(self, model_id: str, build: Callable[[], Resolved]) -> Resolved:
        """Return the Resolved of an id. It is built once and kept while it is among the _MAX_RESOLVED most recently used."""
        resolved = self._resolved.pop(model_id, None) or build()
        self._resolved[model_id] = resolved
        if len(self._resolved) > _MAX_RESOLVED:
            del self._resolved[next(iter(self._resolved))]
        return resolved


def variant_plan(manifest: Manifest, sampler: str, steps: int) -> Plan:
    """Return a teacher's plan with another sampler on a uniform sub-sequence of `steps` steps."""
    phi = uniform_phi(manifest.steps, steps)
    plan = SAMPLERS[sampler](manifest.alpha_bar_table, phi)
    return relabel(plan, manifest.label_table[phi[1:] - 1])


def sha256_of(path: Path) -> str:
    """Return the hex sha256 of a file, as the manifest holds it."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def verify(folder: Path) -> Entry:
    """Read one model folder and check its manifest, its place and its graph's hash. Raises ManifestError with one sentence."""
    folder = folder.absolute()  # a relative path may lack the family and the name, which are checked below
    manifest = read_manifest(folder)
    if (manifest.family, manifest.name) != (folder.parent.name, folder.name):
        raise ManifestError(f"{folder} calls itself {manifest.id}; a model folder is <zoo>/<family>/<name>")
    graph = folder / GRAPH
    if not graph.is_file():
        raise ManifestError(f"{folder} has no {GRAPH}")
    found = sha256_of(graph)
    if found != manifest.sha256:
        raise ManifestError(
            f"{graph} does not match its manifest: sha256 is {found[:12]}..., expected {manifest.sha256[:12]}..."
        )
    return Entry(folder, manifest, graph.stat().st_size)


def discover(zoos: Iterable[Path]) -> Catalogue:
    """Verify every model folder in the zoos. A folder that fails is refused with its reason.

    When two zoos hold the same id, the first one is served and the other refused.
    """
    entries: dict[str, Entry] = {}
    refusals: list[Refusal] = []
    for zoo in zoos:
        if not zoo.is_dir():
            refusals.append(Refusal(zoo, f"the zoo {zoo} is not a folder"))
            continue
        # Either file marks a model folder, so that a folder without its manifest is reported too.
        for folder in sorted({path.parent for name in (MANIFEST, GRAPH) for path in zoo.glob(f"*/*/{name}")}):
            try:
                entry = verify(folder)
            except (ManifestError, OSError) as error:
                refusals.append(Refusal(folder, str(error)))
                continue
            if entry.id in entries:
                reason = f"{entry.id} is already served from {entries[entry.id].folder}"
                refusals.append(Refusal(folder, reason, shadowed=True))
            else:
                entries[entry.id] = entry
    return Catalogue(entries, tuple(refusals))


def default_zoo() -> Path:
    """Return the zoo that ships with the package."""
    return Path(__file__).parent / "zoo"
