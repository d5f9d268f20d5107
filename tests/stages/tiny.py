"""Tiny random models with tokenizers, and the plain computations that the stages are held against.

A reference here is written the long way: float64, whole vocabulary, one rollout at a time, no
batch, no chunk, no cache.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from tip.stages.engines.local.engine import LocalEngine
from tip.stages.engines.protocols import Sampling
from tip.stages.models.card import read_card
from tip.stages.models.language_model import LanguageModel
from tip.stages.models.load import load_model
from tip.stages.models.settings import ModelSettings
from tip.stages.prompts.render import Prompt
from tip.stages.rollout.rollout import roll_out
from tip.stages.score.settings import ScoreSettings
from tip.stages.signals.supports import Cut
from tip.stages.train.data import TrainingData, load_training_data
from tip.storage.columns import ROLLOUTS, SELECTION, TEACHER, schema
from tip.storage.keys import ids_hash
from tip.storage.tables import write_table
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

CPU = torch.device("cpu")
STOP = 1  # the id that ends a response in every tiny tokenizer

SHAPES: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {},  # biases in queries, keys and values
    "qwen3": {"head_dim": 8},  # norms of queries and keys
    "mistral": {"sliding_window": 5},
    "gpt2": {},  # positions are absolute: a wrong one shows, unlike with rotary embeddings
    "gemma2": {"head_dim": 8, "final_logit_softcapping": 30.0},
    "cohere": {"logit_scale": 0.5},
    "granite": {"logits_scaling": 8.0},
    "minicpm3": {  # scales before its head
        "dim_model_base": 4,
        "q_lora_rank": 8,
        "kv_lora_rank": 8,
        "qk_nope_head_dim": 4,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
    },
    "opt": {"ffn_dim": 24, "word_embed_proj_dim": 16},  # its body is inside of its body
    "bloom": {},  # no sdpa
    "mpt": {"n_layers": 2, "d_model": 16, "n_heads": 2},
    "apertus": {},  # its activation has buffers
    "glm4_moe": {  # and so has its router
        "head_dim": 8,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 8,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    },
    "mixtral": {"num_local_experts": 2, "num_experts_per_tok": 1},  # files name each expert
    "gpt_neox": {},
    "lfm2": {"layer_types": ["conv", "full_attention"], "conv_L_cache": 3},  # rows cannot leave
    "phi3": {"pad_token_id": 0},
    "starcoder2": {},
    "falcon": {},  # chooses its attention by classes of its own
    "bart": {  # a decoder alone, which counts positions from the padding in front
        "d_model": 16,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 24,
    },
    "mamba": {"state_size": 4},  # calls its cache something else
    "bamba": {  # asks a layer without keys how long the cache is
        "attn_layer_indices": [1],
        "mamba_n_heads": 2,
        "mamba_n_groups": 1,
        "mamba_d_state": 4,
        "mamba_chunk_size": 8,
    },
    "falcon_h1": {  # keys and states in one layer
        "head_dim": 8,
        "mamba_d_ssm": 32,
        "mamba_n_heads": 2,
        "mamba_d_state": 4,
        "mamba_chunk_size": 8,
    },
    "recurrent_gemma": {  # what it has read is kept in its layers, not in a cache
        "head_dim": 8,
        "lru_width": 16,
        "block_types": ["recurrent", "attention"],
        "attention_window_size": 64,
    },
    "llama4_text": {  # does not name its body
        "head_dim": 8,
        "num_local_experts": 2,
        "moe_layers": [1],
        "intermediate_size_mlp": 24,
    },
    "trocr": {  # gives all logits, whichever are asked for
        "d_model": 16,
        "decoder_layers": 2,
        "decoder_attention_heads": 2,
        "decoder_ffn_dim": 24,
    },
    "rwkv": {"attention_hidden_size": 16},  # has a state in place of a cache
    "bert-generation": {},  # reads what follows unless it is told that it is a decoder
}


def write_model(
    folder: Path,
    architecture: str = "llama",
    *,
    seed: int = 0,
    vocabulary: int = 60,
    words: int | None = None,
    tied: bool = False,
    spread: float = 0.3,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Path:
    """Write a random model and its tokenizer as a Hugging Face folder.

    vocabulary: rows of the head. words: ids that the tokenizer names (all rows by default).
    spread: standard deviation of all matrices; 0.3 gives entropies well below ln V.
    """
    shape = {
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 128,
        "vocab_size": vocabulary,
        "tie_word_embeddings": tied,
        "bos_token_id": None,
        "eos_token_id": STOP,
        "pad_token_id": None,
    }
    settings = AutoConfig.for_model(architecture, **shape | SHAPES[architecture] | config)
    model = AutoModelForCausalLM.from_config(settings, dtype=torch.float32)
    shake(model, seed, spread)
    model.to(dtype).save_pretrained(folder)
    tokenizer(words or vocabulary).save_pretrained(folder)
    return folder


def shake(model: torch.nn.Module, seed: int, spread: float) -> None:
    """Give every parameter seeded random values, biases and norms included."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Embeddings stand out, so that what comes next depends on what came last.
            wide = 3 * spread if re.search("embed|wte|wpe", name) else spread
            noise = wide * torch.randn(parameter.shape, generator=generator)
            norm = parameter.ndim == 1 and name.endswith("weight")
            parameter.copy_(1 + noise if norm else noise)


def tokenizer(words: int) -> PreTrainedTokenizerFast:
    """Return a tokenizer of single words: `<unk>`, `<stop>`, w2, w3, ..."""
    ids = {"<unk>": 0, "<stop>": STOP} | {f"w{i}": i for i in range(2, words)}
    inner = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    inner.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", eos_token="<stop>", model_max_length=128
    )


def load(
    folder: Path, dtype: torch.dtype = torch.float32, *, device: torch.device = CPU
) -> LanguageModel:
    """Load a model folder."""
    return load_model(read_card(ModelSettings(model=str(folder))), device, dtype)


def prompt(ids: Sequence[int], teacher_ids: Sequence[int] | None = None) -> Prompt:
    """Return a rendered prompt; the teacher is shown the same unless told otherwise."""
    shown = tuple(ids if teacher_ids is None else teacher_ids)
    return Prompt(tuple(ids), ids_hash(list(ids)), shown, None, 0)


def prompts(*lengths: int, vocabulary: int = 60, seed: int = 0) -> list[Prompt]:
    """Return random prompts of given lengths, without the stop token."""
    random = np.random.default_rng(seed)
    return [prompt(random.integers(2, vocabulary, length).tolist()) for length in lengths]


def sampling(**changes: Any) -> Sampling:
    """Return terms of sampling: temperature 1, 12 tokens, the student's ids up to 90 %."""
    usual = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "max_tokens": 12, "stop_ids": (STOP,)}
    return Sampling(**usual | {"seed": 0, "top_mass": 0.9, "top_most": 8} | changes)


def log_probs(folder: Path, ids: Sequence[int], response: Sequence[int]) -> np.ndarray:
    """Return the log-probs [T, V] that predict a response, float64, through the whole model."""
    model = reference_model(folder)
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([[*ids, *response]]), use_cache=False).logits[0]
    return logits[len(ids) - 1 : -1].log_softmax(1).numpy()


@cache
def reference_model(folder: Path) -> Any:
    """Return transformers' own model in float64, eager attention."""
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float64, attn_implementation="eager"
    )
    return model.eval()


@dataclass(frozen=True)
class Shard:
    """A student's rollouts of some prompts with all that the teacher says of them."""

    student: Path
    teacher: Path
    prompts: list[Prompt]
    rollouts: pa.Table

    def rows(self) -> list[tuple[str, list[int], list[int]]]:
        """Return prompt hash, prompt ids and response ids of each rollout."""
        columns = ("prompt_hash", "prompt_ids", "response_ids")
        return list(zip(*(self.rollouts[c].to_pylist() for c in columns), strict=True))


def shard(
    student: Path, teacher: Path, asked: list[Prompt], *, samples: int = 2, **terms: Any
) -> Shard:
    """Let a student answer prompts."""
    engine = LocalEngine(load(student), 64)
    return Shard(student, teacher, asked, roll_out(engine, asked, samples, sampling(**terms)))


CUT = Cut(0.9, 8)  # of the teacher's part of supports


def score_settings(**changes: Any) -> ScoreSettings:
    """Return settings of scoring: teacher ids up to 90 %, at most 8."""
    return ScoreSettings(**{"teacher_top_p": CUT.top_p, "teacher_top_max": CUT.most} | changes)


def select(rollouts: pa.Table, *, share: float = 0.4, seed: int = 0) -> pa.Table:
    """Select tokens at random with random weights, in no order; every fourth rollout has none."""
    random = np.random.default_rng(seed)
    rows = [
        (rollout, position)
        for number, (rollout, response) in enumerate(
            zip(rollouts["rollout"].to_pylist(), rollouts["response_ids"].to_pylist(), strict=True)
        )
        for position in np.flatnonzero(random.random(len(response)) < share)
        if number % 4 != 3
    ]
    picked = [rows[i] for i in random.permutation(len(rows))]
    columns = {
        "rollout": [rollout for rollout, _ in picked],
        "position": [position for _, position in picked],
        "weight": random.uniform(0.5, 2, len(picked)),
        "loss": [None] * len(picked),
        "type": ["Q1"] * len(picked),
        "importance": random.random(len(picked)),
    }
    return pa.table(columns, schema=schema(SELECTION))


def training_data(
    folder: Path,
    tables: Sequence[tuple[pa.Table, pa.Table]],
    selection: pa.Table,
    cut: Cut | None = None,
) -> TrainingData:
    """Write shards (rollouts, teacher) and a selection as Parquet, and read them as a round."""
    paths: dict[str, list[Path]] = {"rollouts": [], "teacher": []}
    for number, pair in enumerate(tables):
        for name, table, columns in zip(paths, pair, (ROLLOUTS, TEACHER), strict=True):
            paths[name].append(folder / f"{name}-{number}.parquet")
            write_table(paths[name][-1], table, columns)
    write_table(folder / "selection.parquet", selection, SELECTION)
    cuts = None if cut is None else [cut] * len(tables)
    return load_training_data(
        paths["rollouts"], paths["teacher"], folder / "selection.parquet", cuts
    )
