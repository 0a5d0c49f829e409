"""Hugging Face's hub: files of a repository, from the hub, or from its cache where it is silent."""

import huggingface_hub

from featstore.downloads import PATIENCE, downloading, from_network
from featstore.errors import DownloadRefused


def endpoint() -> str:
    """Address of the hub."""
    return huggingface_hub.constants.ENDPOINT


def silence() -> str | None:
    """Why the hub cannot be reached, None where it answers or the client is told to be offline.

    The client asks a dead endpoint twelve times over 47 seconds before it looks into its cache.
    """
    if huggingface_hub.constants.HF_HUB_OFFLINE:
        return None
    try:
        huggingface_hub.get_session().head(endpoint(), timeout=PATIENCE)
    except Exception as error:
        if not from_network(error):
            raise
        return str(error)
    return None


def folder(repository: str, revision: str | None, patterns: list[str], remedy: str) -> str:
    """The local folder with those files of a repository whose names fit one of `patterns`.

    Raises `DownloadRefused` where the hub refuses, or is silent and nothing of it is cached.
    """
    source, reason = f"{endpoint()}/{repository}", silence()
    if reason is None:
        with downloading(f"hf:{repository}", source, remedy):
            return huggingface_hub.snapshot_download(
                repository, revision=revision, allow_patterns=patterns
            )
    try:
        return huggingface_hub.snapshot_download(
            repository, revision=revision, allow_patterns=patterns, local_files_only=True
        )
    except huggingface_hub.errors.LocalEntryNotFoundError:
        raise DownloadRefused(
            f"hf:{repository} could not be fetched from {source}: {reason}; {remedy}"
        ) from None
