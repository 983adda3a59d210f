"""All pairs looked at before any work is done: which cannot be used, and which look odd."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tqdm import tqdm

from cxrseg.runtime.core.errors import CxrsegError
from cxrseg.runtime.terminal.console import echo
from cxrseg.trainer.check.plausibility import oddities
from cxrseg.trainer.data.pairs import read_pair
from cxrseg.trainer.data.samples import Sample

MANY_EDGES = 0.03
"""Share of pixels between the labels above which a mask is named: smoothing has moved its edges."""

SMALL_SOURCE = 10
"""A source of fewer pairs is not judged alone."""

MAX_NAMED = 20
"""Most odd pairs that are named before a training."""

_AT_ONCE = 256


@dataclass(frozen=True)
class Finding:
    """What was seen of one pair.

    Attributes:
        sample: The pair.
        reasons: Why it looks odd; empty where it does not.
        between: Share of the mask's pixels in [0, 1] whose value is between the labels'.
        error: Why it cannot be used; None where it can.
    """

    sample: Sample
    reasons: tuple[str, ...] = ()
    between: float = 0
    error: CxrsegError | None = None


def look_at(sample: Sample) -> Finding:
    """Read both files of a pair and compare them."""
    try:
        pair = read_pair(sample)
        reasons = oddities(pair.labels, pair.pixels, pair.is_map)
        return Finding(sample, reasons, pair.between)
    except CxrsegError as error:
        return Finding(sample, error=error)


def look_at_all(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Yield what is seen of each pair, in order."""
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(samples), _AT_ONCE):
            yield from pool.map(look_at, samples[start : start + _AT_ONCE])


def too_many_odd(findings: Sequence[Finding], max_odd: float) -> CxrsegError | None:
    """Return why a set should not be trained on: most of it, or of one of its sources, is odd.

    Args:
        findings: What was seen of all pairs.
        max_odd: Largest share that may be odd.
    """
    sources = Counter(finding.sample.group for finding in findings)
    groups = [name for name, count in sources.items() if count >= SMALL_SOURCE]
    for name in (None, *groups):
        here = [finding for finding in findings if name in (None, finding.sample.group)]
        odd = [finding for finding in here if finding.reasons]
        if len(odd) > max_odd * len(here):
            reasons = Counter(reason for finding in odd for reason in finding.reasons)
            reason, count = reasons.most_common(1)[0]
            return CxrsegError(
                "masks" if name is None else f"masks of {name}",
                f"{len(odd)} of {len(here)} look wrong ({reason}: {count})",
                "look at them with cxrseg-train --check; "
                "if they are right all the same, raise data.max_odd in the recipe",
            )
    return None


def remarks(findings: Sequence[Finding]) -> Iterator[str]:
    """Yield a line for each pair that looks odd, and one for all whose edges are smoothed."""
    for finding in findings:
        if finding.reasons:
            yield f"{finding.sample.mask}: {'; '.join(finding.reasons)}"
    smooth = [finding for finding in findings if finding.between > MANY_EDGES]
    if smooth:
        worst = max(smooth, key=lambda finding: finding.between)
        more = f" and {len(smooth) - 1} more masks" if len(smooth) > 1 else ""
        yield (
            f"{worst.sample.mask}: {worst.between:.0%} of its values lie between those of the "
            f"labels{more}; they are cut at half"
        )


def check_pairs(samples: Sequence[Sample], max_odd: float) -> None:
    """Look at all pairs before any work is done on one of them, and name those that look odd.

    Raises:
        CxrsegError: For the first pair that is unusable, or where too many look odd.
    """
    findings = []
    for finding in watch_pairs(samples):
        if finding.error is not None:
            raise finding.error
        findings.append(finding)
    stop = too_many_odd(findings, max_odd)
    lines = list(remarks(findings))
    for line in lines[:MAX_NAMED]:
        echo(f"warning: {line}", err=True)
    if len(lines) > MAX_NAMED:
        rest = len(lines) - MAX_NAMED
        echo(f"warning: {rest} more look odd; cxrseg-train --check names all of them", err=True)
    if stop is not None:
        raise stop


def watch_pairs(samples: Sequence[Sample]) -> Iterator[Finding]:
    """Yield what is seen of each pair, with a progress bar."""
    found = look_at_all(samples)
    return iter(tqdm(found, "checking masks", len(samples), leave=False, disable=None))
