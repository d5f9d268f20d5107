"""What is odd about rendered prompts, though they can be used."""

from collections.abc import Collection, Sequence

Ids = Sequence[int]


def notes_on(
    prompts: Sequence[Ids],
    special_ids: Collection[int],
    stop_ids: Collection[int],
    template: str,
    first_id: int | None = None,
) -> list[str]:
    """Return notes on prompts that begin with a special token twice, or end with a stop token.

    Models have seen neither in training; after its stop token a model may say anything. first_id:
    what the model's family begins every text with; prompts without are noted, too.
    """
    twice = [ids[0] for ids in prompts if len(ids) > 1 and ids[0] == ids[1] in special_ids]
    ended = [ids[-1] for ids in prompts if ids[-1] in stop_ids]
    found = [
        (twice, "begin twice with the special token"),
        (ended, "end with the stop token"),
    ]
    way_out = (
        "set add_special_tokens = false if the tokenizer adds it, or drop it from the text"
        if template == "raw"
        else "look at the chat template"
    )
    without = sum(ids[0] != first_id for ids in prompts) if first_id is not None else 0
    lost = [
        f"{without} of {len(prompts)} prompts do not begin with token {first_id}, with which "
        "models of this family begin every text: has the tokenizer lost its BOS (add_bos_token "
        "in its tokenizer_config.json)? Else write it at the beginning of `format`"
    ]
    return (lost if without else []) + [
        f"{len(ids)} of {len(prompts)} prompts {what} {ids[0]}: {way_out}"
        for ids, what in found
        if ids
    ]
