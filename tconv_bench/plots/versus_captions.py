"""Two or three sentences per comparison figure, computed from the rows that it shows: how to read it, and what it says."""

from __future__ import annotations

from collections.abc import Sequence
from math import isinf

import numpy as np

from tconv_bench import units, verdicts
from tconv_bench.plots import rows, style, versus_cost, versus_samples, versus_speed, versus_winners
from tconv_bench.plots import versus_rows as versus
from tconv_bench.plots import versus_scores as scores
from tconv_bench.plots.versus_scores import Score
from tconv_bench.store import Measurement
from tconv_bench.verdicts import Group


def ends(total: Score) -> str:
    """How duels ended: "41 wins, 10 ties and 15 losses"."""
    return (
        f"{versus.count(total.wins, 'win')}, {versus.count(total.ties, 'tie')} and {versus.count(total.losses, 'loss', 'es')}"
    )


def winners(measurements: list[Measurement]) -> str:
    """How the best of ours fares against the best peer in each condition, with and without channels-last entrants."""
    every, parts = versus.compared(measurements), []
    for name, found in versus_winners.conditions(every):
        total = scores.score(scores.duels(found))
        narrow = scores.score(scores.duels(map(versus.channels_first, found)))
        if total is not None:
            text = f"{name} {ends(total)}"
            if narrow is not None and narrow != total:
                text += f" (against channels-first engines {ends(narrow)})"
            parts.append(text)
    text = (
        "Each row is a layer; a cell has the colour and name of the fastest entrant, or of those that chance cannot tell apart."
    )
    return f"{text} Our best against the best peer: {'; '.join(parts)}." if parts else text


def speedup(measurements: list[Measurement], mode: str, cache: str) -> str:
    """How to read the speed-up heat map, and who leads it on either side."""
    found = versus.drawn(measurements, mode, cache)
    text = (
        f"Blue is faster than {versus.BASE}, red slower; a range that includes 1 is a difference that chance may explain. "
        "Bold marks the fastest of a row and all that tie with it."
    )
    leaders = []
    for side, peer in (("this project", False), ("the other engines", True)):
        names = [n for n in versus.entrants(found) if versus.is_peer(found, n) is peer and n != versus.BASE]
        pairs = ((name, versus.mean_ratio(found, versus.BASE, name)) for name in names)
        means = {name: mean for name, mean in pairs if mean is not None and 2 * mean[1] >= len(found)}
        if means:
            best = max(means, key=lambda name: means[name][0])
            leaders.append(f"of {side} {best} with {units.times(means[best][0])} over {versus.count(means[best][1], 'layer')}")
    return f"{text} Ahead by geometric mean: {style.listed(leaders)}." if leaders else text


def roofline(measurements: list[Measurement], cache: str = "hot") -> str:
    """How close both sides come to the limits."""
    found = versus.drawn(measurements, "planned", cache)
    text = (
        "A mark on a black line would use all that the machine has: left of the bend the bytes are the limit, right of it the "
        "arithmetic. Work is counted as useful products only, so an algorithm that saves products may pass the upper line."
    )
    shares = [(name, _fractions(found, peer)) for name, peer in (("our best", False), ("the best peer", True))]
    parts = [f"{versus.percent(float(np.median(values)))} with {name}" for name, values in shares if values]
    return f"{text} Of its own limit the median layer reaches {style.listed(parts)}." if parts else text


def _fractions(found: Sequence[Group], peer: bool) -> list[float]:
    """The roofline fraction of the fastest entrant of a side on each layer."""
    fractions = []
    for group in found:
        best = verdicts.verdict(group, verdicts.peers(group) if peer else verdicts.own(group))
        fraction = group.timed[best.fastest].roofline if best else None
        fractions += [] if fraction is None else [fraction]
    return fractions


def profile(measurements: list[Measurement]) -> str:
    """Who is fastest most often, and who is most often within a tenth of the fastest."""
    every, parts = versus.compared(measurements), []
    for mode in verdicts.MODES:
        found = versus.condition(every, mode, "hot")
        shares = {n: versus_speed.within(versus_speed.slowdowns(found, n), 1.1, len(found)) for n in versus.entrants(found)}
        if shares:
            best = max(shares, key=lambda name: shares[name])
            other = [n for n in shares if versus.is_peer(found, n) is not versus.is_peer(found, best)]
            text = f"{mode} {best}, on {versus.percent(shares[best])} of the layers"
            if other:
                second = max(other, key=lambda name: shares[name])
                text += f" (of the other side {second}, on {versus.percent(shares[second])})"
            parts.append(text)
    return (
        "The higher a curve, the more layers it is close to the fastest on; one that stays below 100 % belongs to an entrant "
        f"that is slower still on the rest, or cannot compute it. Most often within 10 % of the fastest: {'; '.join(parts)}."
    )


def samples(measurements: list[Measurement]) -> str:
    """How far the A/A control's two copies come out apart on the layers shown, and on all."""
    found = versus.drawn(measurements, "planned", "hot")
    shown = scores.spreads(versus_samples.shown(found))
    text = (
        "A curve that lies left of another over its whole height is faster at every quantile; curves that cross prove nothing. "
        "Solid and dotted auto are the same code, so their distance is what chance alone does."
    )
    if not shown:
        return text
    floor = verdicts.noise_floor(found)
    reach = versus.percent(shown[-1]) if len(shown) == 1 else f"{versus.percent(shown[0])} to {versus.percent(shown[-1])}"
    return f"{text} Their intervals reach {reach} apart here, {versus.percent(floor or 0.0)} on the median layer of the run."


def workspace(measurements: list[Measurement], cache: str = "hot") -> str:
    """Who needs least and most."""
    found = versus.drawn(measurements, "planned", cache)
    middle = {n: float(np.median(sizes)) for n in versus.entrants(found) if (sizes := versus_cost.workspaces(found, n))}
    low, high = min(middle, key=lambda n: middle[n]), max(middle, key=lambda n: middle[n])
    least = [name for name in middle if middle[name] == middle[low]]
    verb = "needs" if len(least) == 1 else "need"
    tools = sorted({row.workspace_by for group in found for row in group.timed.values() if row.workspace_by})
    traced = f" Traced by {style.listed(tools)}, in a run of its own." if tools else ""
    return (
        "Further left is leaner; the scale is logarithmic. On the median layer "
        f"{style.listed(least)} {verb} least ({units.size(middle[low])}) and {high} most ({units.size(middle[high])}).{traced}"
    )


def threads(measurements: list[Measurement]) -> str:
    """What the most threads give to ``auto`` and to the peer that gains most."""
    layers = versus_samples.scaled(versus.compared(measurements))
    most = max(n for layer in layers for n in layer)
    gains = {}
    for name in versus.entrants(group for layer in layers for group in layer.values()):
        values = [s for layer in layers if (s := versus_samples.speedup(layer, name, most)) is not None]
        if values:
            gains[name] = rows.geometric_mean(values)
    best, worst = max(gains, key=lambda n: gains[n]), min(gains, key=lambda n: gains[n])
    text = f"With {most} threads, by geometric mean over {versus.count(len(layers), 'layer')}, {best} gains most"
    text += f" ({units.times(gains[best])}) and {worst} least ({units.times(gains[worst])})"
    if verdicts.OWN_DEFAULT in gains and verdicts.OWN_DEFAULT not in (best, worst):
        text += f"; auto gains {units.times(gains[verdicts.OWN_DEFAULT])}"
    return f"Each entrant is compared with itself: a slow one can scale well, since it has more to share out. {text}."


def break_even(measurements: list[Measurement]) -> str:
    """Whose preparation pays soonest on either side."""
    every = versus.compared(measurements)
    found = versus.condition(every, "planned", "hot")
    parts = []
    for side, peer in (("of this project", False), ("of the other engines", True)):
        names = [name for name in versus.entrants(found) if versus.is_peer(found, name) is peer]
        middle = {name: versus_cost.typical(pairs) for name in names if (pairs := versus_cost.paid_after(every, name))}
        if not middle:
            continue
        best = min(middle, key=lambda name: middle[name])
        calls = versus_cost.calls_text(middle[best])
        verb = "never pays" if isinf(middle[best]) else f"pays after {calls} {'call' if calls == '1' else 'calls'}"
        parts.append(f"{side} {best} {verb}")
    return (
        "Left, what preparing costs once; right, how many calls it takes until that is won back. A layer stands at never where "
        f"even the prepared call is slower than some one-shot call of its side. On the median layer, {style.listed(parts)}."
    )
