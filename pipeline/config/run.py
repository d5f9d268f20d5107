"""Everything that makes a run, as one frozen value."""

from typing import Annotated

from pydantic import model_validator

from ...stages.evaluate.settings import EvaluateSettings
from ...stages.models.cpu.settings import CpuSettings
from ...stages.models.settings import ModelSettings, TeacherSettings
from ...stages.prompts.settings import PromptSettings
from ...stages.rollout.settings import RolloutSettings
from ...stages.score.settings import ScoreSettings
from ...stages.select.settings import SelectSettings
from ...stages.settings import BY_CONTENT, NOT_IN_KEY, Count, Natural, Settings
from ...stages.train.settings import TrainSettings
from .track import TrackSettings
from .workers import WorkersSettings


class RunConfig(Settings):
    """Everything that makes a run."""

    name: Annotated[str, BY_CONTENT]
    """Name of the run's folder under `runs`."""
    rounds: Annotated[Count, NOT_IN_KEY] = 10
    """Rounds of rollout, score, select, train. More of them extend a run."""
    seed: Natural = 0
    """Seed of sampling, ties and the order of training."""
    data_seed: Annotated[Natural, BY_CONTENT] = 0
    """Seed of the order of prompts; runs that share it share rollouts."""
    store: Annotated[str, NOT_IN_KEY] = "store"
    """Folder or fsspec URL (s3://bucket/prefix) of artifacts; share it between runs."""
    runs: Annotated[str, NOT_IN_KEY] = "runs"
    """Folder of run folders."""
    device: Annotated[str, NOT_IN_KEY] = "auto"
    """auto, cpu, cuda or cuda:N."""
    threads: Annotated[Natural, NOT_IN_KEY] = 0
    """CPU threads. 0: as many as torch chooses. Results can differ in rounding between counts."""
    cpu: Annotated[CpuSettings, NOT_IN_KEY] = CpuSettings()
    """What makes a CPU compute faster."""
    workers: Annotated[WorkersSettings, NOT_IN_KEY] = WorkersSettings()
    """Who runs rollouts, scores and evaluations."""
    student: Annotated[ModelSettings, BY_CONTENT]
    """The model that learns."""
    teacher: Annotated[TeacherSettings, BY_CONTENT]
    """The model that is learnt from."""
    prompts: Annotated[PromptSettings, BY_CONTENT]
    """Prompts of the rollouts."""
    rollout: RolloutSettings = RolloutSettings()
    """Sampling of rollouts."""
    score: ScoreSettings = ScoreSettings()
    """Teacher signals."""
    select: SelectSettings = SelectSettings()
    """Selection of tokens."""
    train: TrainSettings = TrainSettings()
    """Training of the student."""
    evaluate: Annotated[EvaluateSettings | None, NOT_IN_KEY] = None
    """Problems with known answers, whose results have keys of their own. None: no evaluation."""
    track: Annotated[TrackSettings, NOT_IN_KEY] = TrackSettings()
    """Trackers of experiments that are told what comes of the run."""

    @model_validator(mode="after")
    def _a_server_has_an_address(self) -> "RunConfig":
        if (self.score.engine == "server") != (self.teacher.server is not None):
            raise ValueError(
                "score.engine = 'server' and the section [teacher.server] with its `url` go "
                f"together, but score.engine = '{self.score.engine}' and teacher.server is "
                f"{'missing' if self.teacher.server is None else 'there'}"
            )
        return self

    @model_validator(mode="after")
    def _one_gpu_is_not_shared_out(self) -> "RunConfig":
        for name, section in (("student", self.student), ("teacher", self.teacher)):
            count = section.vllm.tensor_parallel
            if count > 1 and ":" in self.device:
                raise ValueError(
                    f"{name}.vllm.tensor_parallel = {count} needs {count} GPUs, but device = "
                    f"'{self.device}' is one: set device = 'cuda' (CUDA_VISIBLE_DEVICES says "
                    "which), or tensor_parallel = 1"
                )
        if self.train.processes > 1 and ":" in self.device:
            raise ValueError(
                f"train.processes = {self.train.processes} trains on as many GPUs, but device = "
                f"'{self.device}' is one: set device = 'cuda' (CUDA_VISIBLE_DEVICES says which)"
            )
        return self

    @model_validator(mode="after")
    def _actors_have_gpus_of_their_own(self) -> "RunConfig":
        if self.workers.executor == "ray" and ":" in self.device:
            raise ValueError(
                "workers.executor = 'ray' gives each actor GPUs of its own, but device = "
                f"'{self.device}' is one: set device = 'cuda' (CUDA_VISIBLE_DEVICES says which)"
            )
        return self

    @model_validator(mode="after")
    def _processes_can_share_a_training(self) -> "RunConfig":
        train, lora, count = self.train, self.train.lora, self.train.processes
        if count == 1:
            return self
        if count > train.rollouts_per_step:
            raise ValueError(
                f"train.processes = {count}: a step of train.rollouts_per_step = "
                f"{train.rollouts_per_step} rollouts cannot be split over so many: lower it to "
                f"{train.rollouts_per_step} at most"
            )
        if train.optimizer != "adamw":
            raise ValueError(
                f"train.optimizer = '{train.optimizer}' keeps its moments whole, so processes "
                "cannot share them: set train.optimizer = 'adamw', or train.processes = 1"
            )
        if lora is not None and lora.dropout > 0:
            raise ValueError(
                f"train.lora.dropout = {lora.dropout} drops other inputs in each process: set it "
                "to 0, or train.processes = 1"
            )
        if lora is not None and lora.bits is not None:
            raise ValueError(
                "train.lora.bits = 4 trains in one process: set train.processes = 1, or leave "
                "train.lora.bits out"
            )
        return self

    @model_validator(mode="after")
    def _a_residual_needs_every_token(self) -> "RunConfig":
        cut = None if self.rollout.replay else self.rollout.cut
        if self.train.tail == "residual" and cut:
            raise ValueError(
                "train.tail = 'residual' is right in the mean where every token can be sampled, "
                f"but rollout.{cut}: leave that out, or set train.tail = true"
            )
        return self

    @model_validator(mode="after")
    def _shares_of_draws_are_for_forward_kl(self) -> "RunConfig":
        train, replay = self.train, self.rollout.replay
        unfit = {
            f"train.loss = '{train.loss}'": train.loss != "forward_kl",
            f"train.tail = {train.tail!r}": train.tail not in (True, "auto"),
            f"train.clip_token = {train.clip_token}": train.clip_token is not None,
            f"rollout.replay = {replay!r}": replay is not None,
        }
        if self.score.support == "sampled" and any(unfit.values()):
            wrong = next(name for name, is_so in unfit.items() if is_so)
            raise ValueError(
                "score.support = 'sampled' keeps shares of draws: for forward KL over a run's own "
                f"rollouts, with train.tail = true, but {wrong}: change it, or set "
                "score.support = 'top'"
            )
        return self

    @model_validator(mode="after")
    def _replay_is_another_run(self) -> "RunConfig":
        if self.rollout.replay == self.name:
            raise ValueError(
                f"rollout.replay = {self.name!r} names the run itself: give this run another name, "
                "or name a finished run to replay"
            )
        return self
