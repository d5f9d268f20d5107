"""Whether the miniature predicts the real pair: rank correlation of the rules at 20 %.

    python benchmarks/evidence/agreement.py [--folder evidence] [--real half]

Reads the tables that `play.py` has written: accuracy of the rules on the built-in pair (part
`mini-rules`), held-out reverse KL on SmolLM2.
"""

import argparse
from pathlib import Path

import polars as pl
from scipy.stats import kendalltau, spearmanr

BUDGET = " 20%"


def main() -> None:
    """Print both figures of every rule that both parts have, and how alike their orders are."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("evidence"))
    parser.add_argument("--real", default="half", help="the part with SmolLM2")
    options = parser.parse_args()
    small = values(options.folder / "mini-rules" / "accuracy.parquet")
    real = values(options.folder / options.real / "reverse_kl.parquet")
    shared = [row for row in small if row in real]
    print("| rule | built-in, accuracy | SmolLM2, held-out reverse KL |\n|---|---|---|")
    for row in sorted(shared, key=real.__getitem__):
        print(f"| {row.removesuffix(BUDGET)} | {small[row]:.1%} | {real[row]:.3f} |")
    one, other = [small[row] for row in shared], [-real[row] for row in shared]
    rho, tau = spearmanr(one, other), kendalltau(one, other)
    print(
        f"\n{len(shared)} rules: Spearman {rho.statistic:+.2f} (p {rho.pvalue:.2f}), "
        f"Kendall {tau.statistic:+.2f} (p {tau.pvalue:.2f})"
    )


def values(table: Path) -> dict[str, float]:
    """Return the mean over seeds of each rule at the budget."""
    frame = pl.read_parquet(table)
    return {row: value for row, value in frame.select("row", "value").iter_rows() if BUDGET in row}


if __name__ == "__main__":
    main()
