"""Every column of every table, declared once.

The Arrow schema, DuckDB's narrow view and `docs/TABLES.md` are rendered from here.
Convention, everywhere: the row of position t describes the distribution that *predicts* response
token t. `logprob` is the natural logarithm over the full vocabulary at temperature 1; an entropy
or a divergence is in nats and a divergence names its direction.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """One column: its name, Arrow type, unit and meaning, and whether null has a meaning."""

    name: str
    type: pa.DataType
    unit: str
    meaning: str
    nullable: bool = False
    length: str | None = None
    """Of a list: the name under which the narrow view has its length; None: the view lacks it."""


_INT32S = pa.list_(pa.field("element", pa.int32(), nullable=False))
_FLOAT32S = pa.list_(pa.field("element", pa.float32(), nullable=False))
_FLOAT16S = pa.list_(pa.field("element", pa.float16(), nullable=False))
_BOOLS = pa.list_(pa.field("element", pa.bool_(), nullable=False))

_ROLLOUT = Column("rollout", pa.int64(), "id", "hash of the prompt's token ids and the sample")
_POSITION = Column("position", pa.int32(), "index", "place in the response, from 0")

# Lengths are counted on the narrowest list of each kind.
ROLLOUTS = (
    _ROLLOUT,
    Column("prompt_hash", pa.string(), "hex", "hash of the prompt's token ids"),
    Column("sample", pa.int32(), "index", "which of the samples of this prompt, from 0"),
    Column("prompt_ids", _INT32S, "token", "rendered prompt", length="prompt_length"),
    Column("response_ids", _INT32S, "token", "sampled response; its stop token belongs to it"),
    Column(
        "trainable",
        _BOOLS,
        "flag",
        "per response token; false on tool or environment text, which nothing makes yet",
        length="length",
    ),
    Column("logprobs", _FLOAT32S, "nats", "student log-prob of each sampled token"),
    Column("top_ids", _INT32S, "token", "student's top ids, position after position"),
    Column("top_counts", _INT32S, "count", "how many of `top_ids` belong to each position"),
    Column("stop_reason", pa.string(), "word", "`stop` or `length`"),
    Column("reward", pa.float32(), "score", "of the rollout; null: nothing fills it yet", True),
)

TEACHER = (
    _ROLLOUT,
    _POSITION,
    Column(
        "ids",
        _INT32S,
        "token",
        "support: sampled token, student's top, teacher's top; or what was drawn from the teacher",
    ),
    Column(
        "logprobs",
        _FLOAT16S,
        "nats",
        "teacher log-prob of each support id; of drawn ones the log of their share",
    ),
    Column("tail", pa.float32(), "nats", "log of the mass outside; null if nothing is", True),
    Column("entropy", pa.float32(), "nats", "entropy of the teacher"),
)

TOKENS = (
    _ROLLOUT,
    _POSITION,
    Column("token", pa.int32(), "token", "the sampled token"),
    Column("trainable", pa.bool_(), "flag", "whether selection may pick it"),
    Column("special", pa.bool_(), "flag", "a special token of the tokenizer, stop tokens included"),
    Column("student_entropy", pa.float32(), "nats", "entropy of the student"),
    Column("teacher_entropy", pa.float32(), "nats", "entropy of the teacher"),
    Column("reverse_kl", pa.float32(), "nats", "KL(student || teacher)"),
    Column("forward_kl", pa.float32(), "nats", "KL(teacher || student)"),
    Column("jsd", pa.float32(), "nats", "Jensen-Shannon divergence, equal weights"),
    Column("hellinger", pa.float32(), "0..1", "Hellinger distance"),
    Column("student_logprob", pa.float32(), "nats", "student log-prob of the token"),
    Column("teacher_logprob", pa.float32(), "nats", "teacher log-prob of the token"),
    Column(
        "teacher_rank", pa.int32(), "rank", "ids the teacher prefers to the token; 0 is its top"
    ),
    Column("student_mass", pa.float32(), "0..1", "student probability on the support"),
    Column("teacher_mass", pa.float32(), "0..1", "teacher probability on the support"),
    Column(
        "teacher_mass_top", pa.float32(), "0..1", "teacher probability on the student's top 16 ids"
    ),
    Column(
        "overlap",
        pa.float32(),
        "0..1",
        "share of the student's top 16 ids in the teacher's top 16; where the teacher read alone, "
        "among the support's ids, so 1 where it has no more than 16",
    ),
    Column(
        "signal_to_noise",
        pa.float32(),
        "ratio",
        "of a sampled gradient, over the sampled token and both models' top ids (IER)",
    ),
    Column(
        "drift",
        pa.float32(),
        "nats",
        "`student_logprob` less the log-prob stored with the rollout: 0 but for rounding unless "
        "another student sampled it",
    ),
)

SELECTION = (
    _ROLLOUT,
    _POSITION,
    Column("weight", pa.float32(), "weight", "factor of the token's loss"),
    Column("loss", pa.string(), "word", "what is minimised; null: what `train.loss` says", True),
    Column("type", pa.string(), "Q1..Q4", "quadrant of student entropy and reverse KL"),
    Column("importance", pa.float64(), "rule's own", "what the rule ranks by"),
)

EVALUATION = (
    Column("problem", pa.string(), "hex", "hash of the prompt's token ids"),
    Column("sample", pa.int32(), "index", "which of the samples of this problem, from 0"),
    Column("expected", pa.string(), "text", "the reference answer"),
    Column("answer", pa.string(), "text", "the answer found in the response", True),
    Column("correct", pa.bool_(), "flag", "verdict"),
    Column("verdict", pa.string(), "word", "`right`, `wrong`, `no answer` or `timeout`"),
    Column("length", pa.int32(), "tokens", "response length"),
    Column("stop_reason", pa.string(), "word", "`stop` or `length`"),
    Column("response", pa.string(), "text", "decoded response, for reading"),
)


def schema(columns: Iterable[Column]) -> pa.Schema:
    """Return the Arrow schema of a table."""
    return pa.schema([pa.field(c.name, c.type, c.nullable) for c in columns])


def narrow(columns: Iterable[Column]) -> str:
    """Return what a SELECT names to see a table without its lists: lengths, and all else."""
    return ", ".join(
        f"len({c.name})::INTEGER AS {c.length}" if c.length else c.name
        for c in columns
        if c.length or not pa.types.is_list(c.type)
    )


def markdown(columns: Iterable[Column]) -> str:
    """Return the documentation table of a table."""
    rows = [f"| `{c.name}` | {c.type} | {c.unit} | {c.meaning} |" for c in columns]
    return "\n".join(["| column | type | unit | meaning |", "|---|---|---|---|", *rows])
