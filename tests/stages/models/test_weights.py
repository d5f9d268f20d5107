"""What a key knows of how weights are computed: what changes numbers, and of that engine alone."""

from pathlib import Path

from tip.stages.models.card import ModelCard
from tip.stages.models.settings import VllmSettings
from tip.stages.models.weights import Weights

CARD = ModelCard(Path("m"), "f", (1,), (1,), 8, 8, Path("m"))


def test_what_vllm_makes_of_the_weights_is_known_of_vllm_alone_and_only_where_it_is_set() -> None:
    plain = Weights("student", CARD, "f", "bfloat16")
    packed = Weights("student", CARD, "f", "bfloat16", VllmSettings(quantization="fp8"))
    cached = Weights("student", CARD, "f", "bfloat16", VllmSettings(kv_cache_dtype="fp8"))
    for weights in (plain, packed, cached):
        assert weights.compute() == weights.compute("transformers") == "torch.bfloat16"
    found = [weights.compute("vllm") for weights in (plain, packed, cached)]
    assert found == ["torch.bfloat16", "torch.bfloat16 fp8 auto", "torch.bfloat16  fp8"]
