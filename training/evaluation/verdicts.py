"""Verdicts on the paper's claims and on our own aims. Each verdict follows from the results by a fixed rule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from training.evaluation.distances import MeanInterval, mean_interval
from training.evaluation.facts import METHODS
from training.evaluation.result import Result

STUDENT, GUIDED, TEACHER = METHODS["rollout"], f"{METHODS['rollout']}, guided", "teacher"
DDIM, DPMPP, DDPM, PROGRESSIVE = (METHODS[name] for name in ("ddim", "dpmpp", "ddpm", "progressive"))
MANY, FEW = (16, 32, 64, 128), (4, 8)
MIN_PAIRS = 20  # seeds that a comparison seed by seed needs
SAME_NOISE = 0.95  # semantic consistency: least share of images whose nearest teacher image is from the same noise
SMOOTH = 1.1  # an interpolation counts as smooth as the teacher's up to this factor
NO_WORSE = 0.05  # a KID is no worse than another if the whole interval of the difference is at most this share above


@dataclass(frozen=True)
class Verdict:
    """A claim, the verdict on it, and the numbers behind it."""

    claim: str
    verdict: str
    evidence: str


def difference(a: Result, b: Result) -> MeanInterval:
    """Return KID of a minus KID of b with its 95 % interval. Pair by subset if both have the same images and parts."""
    noises_a, noises_b = ((result.images, result.first_index, result.parts, len(result.kid_subsets)) for result in (a, b))
    if noises_a == noises_b:
        return mean_interval(np.asarray(a.kid_subsets) - np.asarray(b.kid_subsets))
    halves = [(result.metrics["kid_high"] - result.metrics["kid_low"]) / 2 for result in (a, b)]
    mean, half = a.metrics["kid"] - b.metrics["kid"], math.hypot(*halves)
    return MeanInterval(mean, mean - half, mean + half)


def _apart(a: Result, b: Result) -> tuple[float, float, str]:
    """Return (low, high, text) of the difference in KID: the ends of its interval, and all three numbers times 1000."""
    mean, low, high = difference(a, b)
    return low, high, f"{1000 * mean:+.1f} [{1000 * low:+.1f}, {1000 * high:+.1f}]"


def verdicts(main: Sequence[Result], every: Sequence[Result]) -> list[Verdict]:
    """Judge the paper's claims. main: results of the main tables; every: those and the results of the ablations."""
    return [
        _lower_kid("The student is closer to the data (KID) than strided DDIM", main, STUDENT, [DDIM], MANY),
        _lower_kid("The student is closer to the data (KID) than progressive distillation", main, STUDENT, [PROGRESSIVE], MANY),
        _consistency(main),
        _interpolation(main),
        _subsequences(main, every),
    ]


def aims(main: Sequence[Result]) -> list[Verdict]:
    """Judge this project's own aims."""
    small = "At 4, 8 and 16 the student's KID is below DDIM's and DPM-Solver++'s, beyond the interval"
    few = "At 4 and 8 the student's KID is below that of every training-free sampler, beyond the interval"
    guided = "At 4, 8 and 16 a guided student's KID is below that of every training-free sampler, beyond the interval"
    equal = "At 4, 8 and 16 a guided student's KID is below that of its guided teacher at as many evaluations"
    samplers = [DDIM, DPMPP, DDPM]
    return [
        _agreement(main),
        _lower_kid(small, main, STUDENT, [DDIM, DPMPP], (*FEW, 16)),
        _lower_kid(few, main, STUDENT, samplers, FEW),
        _lower_kid(guided, main, GUIDED, samplers, (*FEW, 16)),
        _lower_kid(equal, main, GUIDED, [f"{DPMPP}, guided"], (*FEW, 16)),
        _guided(main),
        _fold_cost(main),
        _limit(main),
    ]


def _find(results: Iterable[Result], method: str, evaluations: int, metric: str = "kid") -> Result | None:
    """Find the best model of a method at `evaluations`: by lowest KID, or by highest value of another metric."""
    found = [r for r in results if r.method == method and r.evaluations == evaluations and metric in r.metrics]
    return min(found, key=lambda r: r.metrics[metric] if metric == "kid" else -r.metrics[metric], default=None)


def _with_teacher(results: Iterable[Result]) -> list[Result]:
    """Select the results that are compared with the plain teacher."""
    return [result for result in results if "/guided:" not in result.reference]


def _untested(claim: str, reason: str) -> Verdict:
    return Verdict(claim, "could not be tested", reason)


def _decide(claim: str, passed: Sequence[bool], evidence: Sequence[str], wanted: int = 0) -> Verdict:
    """Decide a claim from its comparisons. With fewer than `wanted` of them, it holds only where measured."""
    verdict = "holds" if all(passed) else "does not hold" if not any(passed) else "holds in part"
    if verdict == "holds" and len(passed) < wanted:
        verdict = "holds where measured"
    return Verdict(claim, verdict, "; ".join(evidence))


def _lower_kid(claim: str, results: Sequence[Result], ours: str, others: Sequence[str], counts: Sequence[int]) -> Verdict:
    """Judge a claim that ours is lower in KID. It holds at a count if the whole interval of the difference is below zero."""
    passed, evidence = [], []
    for count in counts:
        mine = _find(results, ours, count)
        for other in others:
            theirs = _find(results, other, count)
            if mine is None or theirs is None:
                continue
            _, high, text = _apart(mine, theirs)
            passed.append(high < 0)
            evidence.append(f"{count}: {text} against {other}")
    if not passed:
        return _untested(claim, f"no evaluation count was measured for both the {ours} and {' or '.join(others)}")
    return _decide(claim, passed, evidence, len(counts) * len(others))


def _agreement(results: Sequence[Result]) -> Verdict:
    """Judge agreement. It holds at a count if the whole 95 % interval of the mean PSNR difference, by seed, is above zero."""
    claim = "At 16, 32, 64 and 128 the student agrees with the teacher better than DDIM and DPM-Solver++ (PSNR)"
    passed, evidence = [], []
    plain = _with_teacher(results)
    for count in MANY:
        mine = _find(plain, STUDENT, count, "psnr_db")
        for other in (DDIM, DPMPP):
            theirs = _find(plain, other, count, "psnr_db")
            if mine is None or theirs is None or mine.reference != theirs.reference:
                continue
            if len(mine.psnr) < MIN_PAIRS or len(mine.psnr) != len(theirs.psnr):
                continue
            gain = np.asarray(mine.psnr) - np.asarray(theirs.psnr)
            mean, half = float(gain.mean()), 1.96 * float(gain.std(ddof=1)) / math.sqrt(len(gain))
            passed.append(mean - half > 0)
            evidence.append(f"{count}: {mean:+.1f} dB [{mean - half:+.1f}, {mean + half:+.1f}] over {other}")
    if not passed:
        return _untested(claim, f"no count was measured for a student and a solver on {MIN_PAIRS} seeds or more")
    return _decide(claim, passed, evidence, 2 * len(MANY))


def _consistency(results: Sequence[Result]) -> Verdict:
    claim = f"Semantic consistency: at least {SAME_NOISE:.0%} of a student's images are nearest to the teacher's own"
    plain = _with_teacher(results)
    students = [r for r in plain if r.method == STUDENT and r.evaluations in MANY and "same_noise" in r.metrics]
    if not students:
        return _untested(claim, "no student was compared with its teacher in features")
    evidence = []
    for result in students:
        text = f"{result.evaluations}: {result.metrics['same_noise']:.1%} of {result.seeds}, {result.metrics['psnr_db']:.1f} dB"
        if (ddim := _find(plain, DDIM, result.evaluations, "same_noise")) is not None:
            text += f" (DDIM {ddim.metrics['same_noise']:.1%})"
        evidence.append(text)
    return _decide(claim, [r.metrics["same_noise"] >= SAME_NOISE for r in students], evidence)


def _interpolation(results: Sequence[Result]) -> Verdict:
    claim = f"Meaningful interpolation: a student's paths are as smooth as the teacher's, up to a factor of {SMOOTH}"
    teacher = next((r for r in results if r.method == TEACHER and "path_length" in r.metrics), None)
    students = [r for r in results if r.method == STUDENT and "path_length" in r.metrics]
    if teacher is None or not students:
        return _untested(claim, "no paths were measured for the teacher and a student (--paths)")
    passed, evidence = [], []
    for result in students:
        length, largest = (result.metrics[name] / teacher.metrics[name] for name in ("path_length", "path_max_step"))
        passed.append(max(length, largest) <= SMOOTH)
        evidence.append(f"{result.evaluations}: length x{length:.2f}, largest step x{largest:.2f}")
    return _decide(claim, passed, evidence)


def _divides(result: Result) -> bool:
    """Return True when the steps of a result divide its teacher's."""
    steps = result.facts.teacher_steps
    return steps is not None and steps % result.evaluations == 0


def _subsequences(main: Sequence[Result], every: Sequence[Result]) -> Verdict:
    """Compare T' that do not divide T, ablations included, with the main table's next smaller T' that does."""
    claim = f"Flexible sub-sequences: a T' that does not divide T is in KID at most {NO_WORSE:.0%} above the next smaller one"
    students = sorted(
        (r for r in every if r.method == STUDENT and "kid" in r.metrics and r.facts.phi == "uniform"),
        key=lambda r: r.evaluations,
    )
    shown = {result.model for result in main}
    dividing = [r for r in students if _divides(r) and r.model in shown]
    passed, evidence = [], []
    for result in students:
        below = [other for other in dividing if other.evaluations < result.evaluations]
        if _divides(result) or not below:
            continue
        _, high, text = _apart(result, below[-1])
        passed.append(high <= NO_WORSE * below[-1].metrics["kid"])
        evidence.append(f"{result.evaluations} against {below[-1].evaluations}: {text}")
    return _decide(claim, passed, evidence) if passed else _untested(claim, "no such student was measured")


def _guided(results: Sequence[Result]) -> Verdict:
    claim = "A guided student at 16 evaluations is closer to the data (KID) than the plain teacher at all of its steps (DDIM)"
    student = _find(results, GUIDED, 16)
    teacher = next((r for r in results if r.method == TEACHER and "kid" in r.metrics), None)
    if student is None or teacher is None:
        return _untested(claim, "the guided student at 16 or the teacher was not measured")
    _, high, text = _apart(student, teacher)
    return _decide(claim, [high < 0], [text])


def _cost(result: Result) -> int:
    """Return the cost of the training of a result whose cost is known."""
    assert result.facts.training_cost is not None
    return result.facts.training_cost


def _fold_cost(results: Sequence[Result]) -> Verdict:
    """Compare, for each T', the cost of the best progressive student with the cheapest student that is no worse in KID."""
    claim = "Single fold costs at most one third of progressive distillation at equal quality (KID, "
    claim += f"at most {NO_WORSE:.0%} above)"
    costed = [r for r in results if "kid" in r.metrics and r.facts.training_cost is not None]
    passed, evidence = [], []
    for count in sorted({r.evaluations for r in costed if r.method == PROGRESSIVE}):
        theirs = _find(costed, PROGRESSIVE, count)
        assert theirs is not None
        cost = _cost(theirs)
        margin = NO_WORSE * theirs.metrics["kid"]
        ours = [r for r in costed if r.method == STUDENT and r.evaluations == count and _apart(r, theirs)[1] <= margin]
        if not ours:
            passed.append(False)
            evidence.append(f"{count}: no student as good was measured")
            continue
        cheapest = min(ours, key=_cost)
        passed.append(3 * _cost(cheapest) <= cost)
        text = f"{count}: {_cost(cheapest) / cost:.2f} of its {cost:,} evaluations"
        text += f", KID {_apart(cheapest, theirs)[2]}"
        if "psnr_db" in cheapest.metrics and "psnr_db" in theirs.metrics:
            text += f", agreement {cheapest.metrics['psnr_db'] - theirs.metrics['psnr_db']:+.1f} dB"
        evidence.append(text)
    return _decide(claim, passed, evidence) if passed else _untested(claim, "no progressive student with its cost was measured")


def _limit(results: Sequence[Result]) -> Verdict:
    """Find the smallest T' (the paper's open question): from it on, every student's interval meets the teacher's."""
    claim = "The smallest T' whose KID interval still meets the teacher's"
    teacher = next((r for r in results if r.method == TEACHER and "kid" in r.metrics), None)
    students = sorted((r for r in results if r.method == STUDENT and "kid" in r.metrics), key=lambda r: r.evaluations)
    if teacher is None or not students:
        return _untested(claim, "the KID of the teacher and of students was not measured")
    meets: list[Result] = []
    for result in reversed(students):
        if result.metrics["kid_low"] > teacher.metrics["kid_high"]:
            break
        meets.insert(0, result)
    evidence = "; ".join(f"{result.evaluations}: {_apart(result, teacher)[2]}" for result in students)
    return Verdict(claim, f"T' = {meets[0].evaluations}" if meets else "none", evidence)
