"""Find the class that a prompt names. The models know classes, not language: a prompt names one class, or nothing.

- `sneaker`, `Sneakers` and `a red sneaker` all name the class Sneaker.
- Spaces and hyphens do not count: `pull over` names Pullover; `tshirt`, `t shirt` and `tee-shirt` name `T-shirt/top`.
- Each side of a slash is a name of its own: `top` names `T-shirt/top`.
- The last word is enough where no other class has it as its name: `boot` names `Ankle boot`.
- Where names overlap the longest wins.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from models.manifest import Manifest
from service.features.errors import InvalidRequestError

_SPELT = {"t": "tee"}  # letters that people also write as words, as in T-shirt


def _plain(text: str) -> str:
    return re.sub(r"[\s_-]+", " ", text).strip().casefold()


def classes_named(prompt: str, classes: Sequence[str]) -> list[int]:
    """Return the labels of the classes that a prompt names, in order. A name within a longer name does not count.

    A name that several classes share, as two kinds of boot share `boot`, names them all.
    """
    text = _plain(prompt)
    exact = [label for label, name in enumerate(classes) if _plain(name) == text]
    if exact:
        return exact
    found: set[int] = set()
    for name, labels in sorted(_names(classes).items(), key=lambda pair: len(pair[0]), reverse=True):
        if name not in text.replace(" ", ""):  # rules out most names before a pattern is compiled for each
            continue
        letters = ("" if name.isdecimal() else " ?").join(map(re.escape, name))
        text, hits = re.subn(rf"(?<!\w){letters}(?:e?s)?(?!\w)", "|", text)
        if hits:
            found |= labels
    return sorted(found)


def _names(classes: Sequence[str]) -> dict[str, set[int]]:
    """Map each name, without spaces, to the labels of its classes.

    The last word of a name is a name too, unless it is the whole name of a class.
    """
    names: dict[str, set[int]] = {}
    parts = [(_plain(part).split(), label) for label, name in enumerate(classes) for part in name.split("/") if part.strip()]
    for words, label in parts:
        for spelt in (words, [_SPELT.get(word, word) for word in words]):
            names.setdefault("".join(spelt), set()).add(label)
    proper = set(names)
    for words, label in parts:
        if words[-1] not in proper and len(words[-1]) > 2:
            names.setdefault(words[-1], set()).add(label)
    return names


def class_of_prompt(prompt: str, manifest: Manifest) -> int | None:
    """Return the label that a prompt names; None for an empty prompt. Raises InvalidRequestError for anything else."""
    if not prompt.strip():
        return None
    if not manifest.classes:
        raise InvalidRequestError(
            f"{manifest.id} is unconditional and makes what it was trained on ({manifest.provenance.data}); "
            "leave the prompt empty.",
            "prompt",
        )
    found = classes_named(prompt, manifest.classes)
    if len(found) == 1:
        return found[0]
    says = "names several classes: " + ", ".join(manifest.classes[label] for label in found) if found else "names no class"
    raise InvalidRequestError(
        f"The prompt {says}; name one of {', '.join(manifest.classes)}, or leave it empty.", "prompt", "unknown_class"
    )


def default_class(seed: int, index: int, manifest: Manifest) -> int | None:
    """Return the class of an image whose request names none: (seed + index) modulo the number of classes.

    So images of consecutive indices show all classes in turn. None for an unconditional model.
    """
    return (seed + index) % len(manifest.classes) if manifest.classes else None
