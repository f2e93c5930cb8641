"""Compiled kernels of `beamline.crystallography.event_peaks`, which describes what they do.

Peak pixels are kept as runs (consecutive pixels of a row), the unit of a union-find over rows. A
row is first asked as a whole whether it has any peak, in a loop that the compiler vectorises:
nearly all have none, so that the time is that of reading the logits.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from beamline.core.compiled import compiled

__all__ = ["FIRST_NAN", "IN_PADDING", "MASKED", "NAN", "N_COMPONENTS", "N_RUNS", "label", "measure"]

#: Places in the result of `label`.
N_RUNS, N_COMPONENTS, IN_PADDING, MASKED, NAN, FIRST_NAN = range(6)

_BLOCK = 64


@compiled
def _root(parent: Any, node: int) -> int:
    while parent[node] != node:
        parent[node] = parent[parent[node]]
        node = parent[node]
    return node


@compiled
def label(
    logits: Any,
    images: Any,
    valid: Any,
    frame: tuple[int, int, int, int],
    shift: tuple[int, int],
    reach: int,
    runs: Any,
    parent: Any,
    component: Any,
    rows: Any,
    info: Any,
) -> bool:
    """Find the runs of peak pixels and the component of each; False if `runs` is too short.

    `runs` (n, 4): panel, row, start and stop in the logits; `parent` (n,) is scratch; `component`
    (n,): number of the component, -1 in padding; `rows` (panels * height + 1,): the first run of
    each row. `frame`: the panel in the logits (top, bottom,
    left, right). `shift` is added to a pixel of the logits to get that of the image. `valid`:
    (P or 1 or 0, h, w). `reach`: 1 to join diagonal neighbours, else 0.
    """
    top, bottom, left, right = frame
    down, across = shift
    n_panels, _, height, width = logits.shape
    n = masked = nan = 0
    first_nan = -1
    for panel in range(n_panels):
        above = n
        for row in range(height):
            no, yes = logits[panel, 0, row], logits[panel, 1, row]
            here = n
            rows[panel * height + row] = n
            on_panel = top <= row < bottom
            lit = False
            for x in range(width):
                lit |= not (yes[x] <= no[x])
            if not lit:
                above = n
                continue
            start, known = -1, above
            for block in range(0, width, _BLOCK):
                end = min(block + _BLOCK, width)
                lit = False
                for x in range(block, end):
                    lit |= not (yes[x] <= no[x])
                if not lit and start < 0:
                    continue
                # One pixel past the end of the row closes its last run.
                for x in range(block, end + (end == width)):
                    peak = False
                    inside = on_panel and left <= x < right
                    if x < width:
                        peak = yes[x] > no[x]
                        if not peak and not (yes[x] <= no[x]):
                            nan += 1
                            if first_nan < 0:
                                first_nan = (panel * height + row) * width + x
                        if peak and inside:
                            bad = not np.isfinite(images[panel, row + down, x + across])
                            if valid.shape[0] > 0:
                                bad |= not valid[panel % valid.shape[0], row - top, x - left]
                            if bad:
                                masked += 1
                                peak = False
                    if start >= 0 and (not peak or (on_panel and (x in (left, right)))):
                        if n == runs.shape[0]:
                            return False
                        padding = not (on_panel and left <= start < right)
                        runs[n, 0], runs[n, 1], runs[n, 2], runs[n, 3] = panel, row, start, x
                        parent[n] = n
                        component[n] = -1 if padding else 0
                        while known < here and runs[known, 3] + reach <= start:
                            known += 1
                        other = known
                        while other < here and runs[other, 2] < x + reach:
                            if (component[other] < 0) == padding:
                                a, b = _root(parent, n), _root(parent, other)
                                parent[max(a, b)] = min(a, b)
                            other += 1
                        n += 1
                        start = -1
                    if peak and start < 0:
                        start = x
            above = here
    rows[n_panels * height] = n
    components = in_padding = 0
    for run in range(n):
        # A root comes before the rest of its component.
        root = parent[run]
        if root != run:
            component[run] = component[root]
        elif component[run] < 0:
            in_padding += 1
        else:
            component[run] = components
            components += 1
    info[N_RUNS], info[N_COMPONENTS], info[IN_PADDING] = n, components, in_padding
    info[MASKED], info[NAN], info[FIRST_NAN] = masked, nan, first_nan
    return True


@compiled
def measure(
    logits: Any,
    images: Any,
    valid: Any,
    frame: tuple[int, int, int, int],
    shift: tuple[int, int],
    runs: Any,
    component: Any,
    rows: Any,
    n_runs: int,
    min_pixels: int,
    gain: float,
    half: int,
    clip: float,
    whole: Any,
    sums: Any,
) -> None:
    """Measure the components that `label` found.

    `whole` (n, 3): panel, number of pixels, and whether the brightest one has a bad neighbour or
    none, at the edge. `sums` (n, 7), float64: sum of weight * fs,
    weight * ss, of the weights, net total, maximum, variance of the background times the number of
    pixels (NaN without background), sum of the probabilities. Both are zero before.
    """
    top, _, left, _ = frame
    down, across = shift
    n = whole.shape[0]
    brightest = np.zeros((n, 2), np.int64)
    for run in range(n_runs):
        which = component[run]
        if which < 0:
            continue
        panel, row = runs[run, 0], runs[run, 1]
        for x in range(runs[run, 2], runs[run, 3]):
            value = float(images[panel, row + down, x + across])
            odds = float(logits[panel, 1, row, x]) - float(logits[panel, 0, row, x])
            sums[which, 6] += 1.0 / (1.0 + np.exp(-odds))
            if whole[which, 1] == 0 or value > sums[which, 4]:
                sums[which, 4] = value
                brightest[which, 0], brightest[which, 1] = row, x
            whole[which, 0] = panel
            whole[which, 1] += 1
    level = np.full(n, np.nan)
    for which in range(n):
        if whole[which, 1] >= min_pixels:
            whole[which, 2] = _at_edge(
                images,
                valid,
                frame,
                shift,
                whole[which, 0],
                brightest[which, 0],
                brightest[which, 1],
            )
            level[which], variance = _background(
                runs,
                component,
                rows[whole[which, 0] * logits.shape[2] :],
                images,
                valid,
                frame,
                shift,
                whole[which, 0],
                brightest[which, 0],
                brightest[which, 1],
                gain,
                half,
                clip,
            )
            sums[which, 5] = variance * whole[which, 1]
    for run in range(n_runs):
        which = component[run]
        if which < 0 or np.isnan(level[which]):
            continue
        panel, row = runs[run, 0], runs[run, 1]
        for x in range(runs[run, 2], runs[run, 3]):
            net = float(images[panel, row + down, x + across]) - level[which]
            weight = max(net, 0.0)
            sums[which, 0] += weight * (x - left)
            sums[which, 1] += weight * (row - top)
            sums[which, 2] += weight
            sums[which, 3] += net


@compiled
def _at_edge(
    images: Any,
    valid: Any,
    frame: tuple[int, int, int, int],
    shift: tuple[int, int],
    panel: int,
    row: int,
    column: int,
) -> bool:
    top, bottom, left, right = frame
    if row in (top, bottom - 1) or column in (left, right - 1):
        return True
    for y in range(row - 1, row + 2):
        for x in range(column - 1, column + 2):
            if not np.isfinite(images[panel, y + shift[0], x + shift[1]]):
                return True
            if valid.shape[0] > 0 and not valid[panel % valid.shape[0], y - top, x - left]:
                return True
    return False


@compiled
def _background(
    runs: Any,
    component: Any,
    rows: Any,
    images: Any,
    valid: Any,
    frame: tuple[int, int, int, int],
    shift: tuple[int, int],
    panel: int,
    row: int,
    column: int,
    gain: float,
    half: int,
    clip: float,
) -> tuple[float, float]:
    """Level and variance of the pixels around a peak, without peaks, neighbours and outliers."""
    top, bottom, left, right = frame
    down, across = shift
    size = 2 * half + 1
    # Whether a pixel, or its neighbour in the same row, belongs to a peak; one pixel wider.
    near = np.zeros((size + 2, size), np.bool_)
    for y in range(max(row - half - 1, top), min(row + half + 2, bottom)):
        for run in range(rows[y], rows[y + 1]):
            if component[run] >= 0:
                first = max(runs[run, 2] - 1 - column + half, 0)
                for j in range(first, min(runs[run, 3] + 1 - column + half, size)):
                    near[y - row + half + 1, j] = True
    values = np.empty(size * size)
    n = 0
    for y in range(max(row - half, top), min(row + half + 1, bottom)):
        i = y - row + half
        for x in range(max(column - half, left), min(column + half + 1, right)):
            j = x - column + half
            if near[i, j] or near[i + 1, j] or near[i + 2, j]:
                continue
            if valid.shape[0] > 0 and not valid[panel % valid.shape[0], y - top, x - left]:
                continue
            value = float(images[panel, y + down, x + across])
            if np.isfinite(value):
                values[n] = value
                n += 1
    while n > 0:
        level = 0.0
        for i in range(n):
            level += values[i]
        level /= n
        squares = 0.0
        for i in range(n):
            squares += (values[i] - level) ** 2
        variance = max(squares / max(n - 1, 1), gain * level)
        limit = level + clip * np.sqrt(max(variance, gain * gain))
        kept = 0
        for i in range(n):
            if values[i] <= limit:
                values[kept] = values[i]
                kept += 1
        if kept == n:
            return level, variance
        n = kept
    return np.nan, np.nan
