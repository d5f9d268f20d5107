"""MLflow: a run of an experiment, on the server or in the store that MLFLOW_TRACKING_URI names."""

import os
import time

from mlflow import MlflowClient
from mlflow.entities import Metric, Param

from .batches import Batch
from .tracker import Told, Tracker, as_markdown

_TAG = "tip_run"
_LONGEST = 500  # characters of a parameter that every store of MLflow takes
_MOST = 900  # metrics a request; a server takes 1,000
_PATIENCE = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}


class _Run:
    def __init__(self, told: Told) -> None:
        for name, value in _PATIENCE.items():  # by default minutes; whoever set them knows why
            os.environ.setdefault(name, value)
        self._client = client = MlflowClient()
        found = client.get_experiment_by_name(told.project)
        experiment = (
            client.create_experiment(told.project) if found is None else found.experiment_id
        )
        known = client.search_runs([experiment], f"tags.{_TAG} = '{told.id}'", max_results=1)
        if known:
            self._id = known[0].info.run_id
            return
        made = client.create_run(experiment, run_name=told.name, tags={_TAG: told.id})
        self._id = made.info.run_id
        params = [Param(n, str(v)[:_LONGEST]) for n, v in told.hyperparameters.items()]
        for start in range(0, len(params), 100):
            client.log_batch(self._id, params=params[start : start + 100])

    def send(self, batch: Batch) -> None:
        now = int(time.time() * 1000)
        metrics = [Metric(n, v, now, batch.round) for n, v in batch.values.items()]
        metrics += [Metric("train/step_loss", loss, now, step) for step, loss in batch.steps]
        for start in range(0, len(metrics), _MOST):
            self._client.log_batch(self._id, metrics=metrics[start : start + _MOST])
        if batch.rollouts:
            name = f"rollouts/round-{batch.round:04d}.md"
            self._client.log_text(self._id, as_markdown(batch), name)
        for text in batch.alerts:
            self._client.set_tag(self._id, f"alert.{batch.stage}.{batch.round}", text)

    def close(self) -> None:
        self._client.set_terminated(self._id)


def open_tracker(told: Told) -> Tracker:
    """Go on with the run that has this id as its tag, or begin one."""
    return _Run(told)
