"""Answers are committed a shard at a time, and generated in batches that span shards."""

from tip.pipeline.rounds.evaluation import evaluate_works
from tip.pipeline.rounds.single import evaluate_round
from tip.pipeline.session import open_session

from ..conftest import MakeConfig


def test_a_batch_spans_shards_and_is_generated_whole_where_some_are_missing(
    config: MakeConfig, asked: dict[str, object]
) -> None:
    session = open_session(config(evaluate=asked))
    first = evaluate_round(session, 0)
    (work,) = evaluate_works(session, session.student(0))
    assert [len(shard) for shard in work.shards] == [32, 8]
    one, two = (made.artifact for made in work.found(session.store) or ())
    session.store.remove("evaluation", two.key)
    again = evaluate_round(open_session(config(evaluate=asked)), 0)
    made = session.store.find("evaluation", two.key)
    assert made is not None
    assert made.content == two.content
    assert session.store.find("evaluation", one.key) == one
    assert again.accuracy == first.accuracy
