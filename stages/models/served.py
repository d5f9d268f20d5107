"""The card of a teacher whose weights a server holds."""

from ...storage.files import user_path
from .card import ModelCard, card_of, look_at_card, read_card
from .folder import model_folder
from .settings import TeacherSettings


def read_served_card(settings: TeacherSettings, *, look: bool = False) -> ModelCard:
    """Return the card of a teacher whose weights may lie with the server alone.

    Where the named folder holds weights, its fingerprint is theirs. Otherwise the fingerprint is
    of what is declared: name, revision, the name that the server is asked for, config and
    vocabulary. look: hash nothing.
    """
    folder = user_path(settings.model)
    if folder.is_dir() and any(folder.glob("*.safetensors")):
        return (look_at_card if look else read_card)(settings)
    folder = model_folder(settings, weights=False)
    declared = {"model": settings.model, "revision": settings.revision}
    if settings.server is not None and settings.server.name is not None:
        declared["served"] = settings.server.name
    return card_of(folder, settings, declared, look=look)
