"""The card of a folder of signals: what the hub shows, and where `datasets` finds the tables."""

from collections.abc import Mapping, Sequence

from ... import __version__
from ...storage import columns
from ...storage.runs import RunFolder
from ...storage.store.artifacts import Artifact
from ..config.run import RunConfig
from ..config.written import as_toml
from ..show.cells import size
from ..show.markdown import fenced, front_matter, table, text
from ..show.parents import Parent, parents_table, prompts_of, terms_of
from .layout import INDEX, KINDS, Index, Kind

_MEANINGS = {
    "rollouts": "a row is a sampled answer of the student",
    "teacher": "a row is a token: the teacher's log-probs on its support",
    "tokens": "a row is a token: entropies and divergences, which selection reads",
}
_COLUMNS = {"rollouts": columns.ROLLOUTS, "teacher": columns.TEACHER, "tokens": columns.TOKENS}


def data_card(
    index: Index,
    run: RunFolder,
    config: RunConfig,
    parents: Sequence[Parent],
    found: Mapping[Kind, Sequence[Artifact]],
) -> str:
    """Return the card. found: the artifacts of each kind."""
    rounds = ", ".join(str(number) for number in index.rounds)
    head = front_matter(
        {
            "configs": [
                {
                    "config_name": kind,
                    "data_files": [{"split": "train", "path": f"data/{kind}/*.parquet"}],
                }
                for kind in KINDS
            ],
            "tags": ["tip", "distillation", "on-policy-distillation", "teacher-signals"],
            "tip_run": index.run_id,
        }
    )
    sizes = [
        (
            kind,
            _MEANINGS[kind],
            len(artifacts),
            f"{sum(a.rows for a in artifacts):,}",
            size(sum(a.bytes for a in artifacts)),
        )
        for kind, artifacts in found.items()
    ]
    parts = [
        head,
        f"# Signals of run {text(index.run)}",
        f"Rollouts of a student and what its teacher says of their tokens, of rounds {rounds} of "
        f"a distillation by tip {__version__}. The row of position t describes the distribution "
        "that predicts response token t; log-probs and divergences are in nats.",
        table(("table", "", "files", "rows", "bytes"), sizes),
        "## Use",
        "A run of the same models, prompts and settings finds them in its store:",
        fenced(
            "sh",
            "hf download --repo-type dataset OWNER/NAME --local-dir FOLDER\n"
            "tip cache import FOLDER",
        ),
        "## Models",
        parents_table(parents),
        "## Prompts",
        prompts_of(run, config),
        "## Columns",
        *(f"### {kind}\n\n{columns.markdown(_COLUMNS[kind])}" for kind in KINDS),
        "## Config",
        f"{fenced('toml', as_toml(index.config))}\n\n`{INDEX}` names every artifact with its key; "
        "`manifests/` says what made each, with the sha256 of its file.",
        "## Licences",
        terms_of(parents),
    ]
    return "\n\n".join(parts) + "\n"
