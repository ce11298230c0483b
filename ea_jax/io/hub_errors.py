"""What the Hugging Face hub's client raises, as one clear sentence each. The client is imported when it is used."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ea_jax.errors import BadInput, EaJaxError, UnknownName


@contextmanager
def asking_hub(
    repo: str, instead: str = "Try again.", failed: str = "could not be fetched from the hub"
) -> Iterator[None]:
    """Turn every failure of the block's calls to the hub into one sentence.

    Args:
        repo: What is asked for, for people.
        instead: What to do where asking again does not help.
        failed: What is said of it where the hub or the network gives the reason.

    Raises:
        BadInput: It is gated, missing, out of reach, cut short, or there is no room for it.
        UnknownName: It is not the id of a repository.
    """
    from huggingface_hub import constants
    from huggingface_hub.errors import (
        EntryNotFoundError,
        GatedRepoError,
        HFValidationError,
        LocalEntryNotFoundError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        yield
    except EaJaxError:
        raise
    except GatedRepoError as error:
        raise BadInput(f"{repo} is gated: accept its terms on the hub, then log in with `hf auth login`.") from error
    except RepositoryNotFoundError as error:
        raise BadInput(f"{repo} is neither a folder here nor a repository on the hub (or it is private).") from error
    except RevisionNotFoundError as error:
        raise BadInput(f"{repo} has no such revision. Name a branch, a tag or a commit of it.") from error
    except OfflineModeIsEnabled as error:
        raise BadInput(f"{repo} is not on this machine, and $HF_HUB_OFFLINE forbids asking the hub.") from error
    except HFValidationError as error:
        raise UnknownName(f"{repo!r} is neither a folder here nor the id of a repository, owner/name.") from error
    except LocalEntryNotFoundError as error:  # also an EntryNotFoundError: the network, not the repository
        if constants.HF_HUB_OFFLINE:
            raise BadInput(f"{repo} is not on this machine, and $HF_HUB_OFFLINE forbids asking the hub.") from error
        raise BadInput(f"{repo} {failed} ({_reason(error)}). {instead}") from error
    except EntryNotFoundError as error:
        raise BadInput(f"{repo} lacks a file that it should have ({_reason(error)}). Tell its makers.") from error
    except Exception as error:  # the hub's client raises what its transport meets
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise BadInput(f"There is no room on the disk for {repo}. Free some, then try again.") from error
        raise BadInput(f"{repo} {failed} ({_reason(error)}). {instead}") from error


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
