"""Turn the exceptions of the Hugging Face client into one clear sentence each. The client is imported on first use."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from ea_jax.errors import BadInput, EaJaxError, Unavailable, UnknownName


@contextmanager
def explain_hub_errors(
    repo: str, advice: str = "Try again.", failure: str = "could not be fetched from the hub"
) -> Iterator[None]:
    """Translate every failure of the calls to the hub inside the block.

    Args:
        repo: The repository, as messages name it.
        advice: What to do when the hub or the network fails.
        failure: What the message says of the repository when the hub or the network fails.

    Raises:
        Unavailable: The repository is gated, out of reach or incomplete, or the disk is full.
        UnknownName: The name cannot be that of a repository.
        BadInput: The repository does not exist, or has no such revision.
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

    offline = f"{repo} is not on this machine, and $HF_HUB_OFFLINE forbids asking the hub."
    try:
        yield
    except EaJaxError:
        raise
    except GatedRepoError as error:
        raise Unavailable(f"{repo} is gated: accept its terms on the hub, then log in with `hf auth login`.") from error
    except RepositoryNotFoundError as error:
        raise BadInput(f"{repo} is neither a folder here nor a repository on the hub (or it is private).") from error
    except RevisionNotFoundError as error:
        raise BadInput(f"{repo} has no such revision. Name a branch, a tag or a commit of it.") from error
    except OfflineModeIsEnabled as error:
        raise Unavailable(offline) from error
    except HFValidationError as error:
        raise UnknownName(f"{repo!r} is neither a folder here nor the id of a repository, owner/name.") from error
    except LocalEntryNotFoundError as error:  # a network failure, although it is an EntryNotFoundError
        if constants.HF_HUB_OFFLINE:
            raise Unavailable(offline) from error
        raise Unavailable(f"{repo} {failure} ({_reason(error)}). {advice}") from error
    except EntryNotFoundError as error:
        raise Unavailable(
            f"{repo} lacks a file that it should have ({_reason(error)}). Report it to the maintainers."
        ) from error
    except Exception as error:  # the client passes on whatever its transport raises
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Unavailable(f"There is no room on the disk for {repo}. Free some, then try again.") from error
        raise Unavailable(f"{repo} {failure} ({_reason(error)}). {advice}") from error


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
