"""What the plan of packs came to, as text for a terminal."""

from __future__ import annotations

from typing import Any


def plan_lines(plan: dict[str, Any]) -> list[str]:
    """Return lines: how near the packs are to the fewest possible, their epochs, and how alike those of a step are."""
    if not plan:
        return []
    steps = plan["steps"]
    bounds = ", ".join(f"{count:,} by {name.replace('_ms', '')}" for name, count in plan["lower_bounds"].items())
    lines = [f"  at least    {bounds}"]
    if epochs := plan.get("epochs"):
        packs, documents = (", ".join(f"{count:,}" for count in epochs[name]) for name in ("packs", "documents"))
        times = ", ".join(f"{count:,} {each} times" for each, count in epochs["times_taken"].items())
        lines.append(f"  epochs      {len(epochs['packs'])}: {packs} packs of {documents} documents; rows: {times}")
        if len(epochs["packs"]) > 1:
            lines.append(
                f"  mates       {epochs['mates_again']:.1%} of the pairs in a pack were one in the first epoch"
            )
    if "random_deal" in steps:
        random = steps["random_deal"]
        lines.append(
            f"  steps       {steps['steps']:,}, {steps['mixed_steps']:,} with ranks that differ in kinds of media "
            f"(a random deal: {random['mixed_steps']:,})"
        )
        if "cost_spread" in steps:
            spread, other = steps["cost_spread"], random["cost_spread"]
            lines.append(
                f"  cost        of a step's packs differs by {spread['median']:.1%} in the median, {spread['p99']:.1%} "
                f"at p99 (a random deal: {other['median']:.1%}, {other['p99']:.1%}){_coefficients(plan.get('cost'))}"
            )
    return lines


def _coefficients(cost: dict[str, Any] | None) -> str:
    if cost is None:
        return ""
    return f"; attention {cost['attention']:.2e}, vision {cost['vision']:.3f} of a token's ({cost['of']})"
