"""An engine is asked in the order of the tables, each sample by the id of its rollout."""

from tiny import prompts
from tip.stages.engines.requests import requests_of
from tip.storage.keys import rollout_id

PROMPTS = prompts(2, 3)


def test_a_shard_asks_for_the_samples_of_a_problem_one_after_the_other() -> None:
    asked = requests_of(PROMPTS, 2)
    expected = [(p.ids, rollout_id(p.hash, sample)) for p in PROMPTS for sample in (0, 1)]
    assert [(r.prompt_ids, r.rollout) for r in asked] == expected
