"""The card of a teacher whose weights a server holds."""

from pathlib import Path

from ...storage.errors import ModelError
from .card import ModelCard, card_of, model_folder
from .settings import TeacherSettings


def read_served_card(settings: TeacherSettings) -> ModelCard:
    """Return the card of a teacher whose weights may lie with the server alone.

    Where the named folder holds weights, its fingerprint is theirs. Otherwise the fingerprint is
    of what is declared: name, revision, the name that the server is asked for, config and
    vocabulary.
    """
    folder = Path(settings.model).expanduser()
    if folder.is_dir() and any(folder.glob("*.safetensors")):
        return card_of(model_folder(settings), settings)
    if not folder.is_dir():
        folder = _small_files(settings)
    declared = {"model": settings.model, "revision": settings.revision}
    if settings.server is not None and settings.server.name is not None:
        declared["served"] = settings.server.name
    return card_of(folder, settings, declared)


def _small_files(settings: TeacherSettings) -> Path:
    from huggingface_hub import snapshot_download  # heavy, rarely needed

    try:
        patterns = ["*.json", "*.txt", "*.model", "*.jinja"]
        return Path(
            snapshot_download(settings.model, revision=settings.revision, allow_patterns=patterns)
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ModelError(
            f"{settings.model}: neither a local folder nor to be had from the hub ({reason}); "
            "give the path of a folder with the config and tokenizer of the served model"
        ) from error
