"""A folder put on the Hugging Face hub: only when told, private unless told, refused in one line before any work."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import (
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from holdfast.errors import HoldfastError, RunError, UserError, first_line

WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.gguf", "*.bin")
"""Files of weights there are replaced by those pushed: of two sets beside each other, libraries load either."""


def check_push(repo: str, *, public: bool, api: HfApi) -> None:
    """See that this machine may write to a repository of models, which need not be there yet; nothing is written.

    Args:
        repo: OWNER/NAME.
        public: Whether everybody may read it.
    Raises:
        UserError: If the hub cannot be reached, nobody is logged in, the owner is somebody else, or the repository is
            there and read by others than `public` says.
    """
    owner, slash, _ = repo.partition("/")
    if not slash:
        raise UserError(f"--push: must be OWNER/NAME on the hub, not {repo}")
    with _explain_faults(repo):
        user = api.whoami()
        owners = [user["name"], *(one["name"] for one in user.get("orgs") or ())]
        if owner not in owners:
            raise UserError(f"--push: {owner} is neither you on the hub nor an organisation of yours; take {owners[0]}")
        try:
            is_public = not api.repo_info(repo).private
        except RepositoryNotFoundError:
            return
    if is_public != public:
        remedy = "everybody may read it: add --public" if is_public else "it is private: leave --public out"
        raise UserError(f"--push: {repo} is there and {remedy}, or choose another name")


def push_folder(folder: Path, repo: str, *, public: bool, api: HfApi) -> str:
    """Put the files of a folder into a repository, which is made where there is none; its address.

    Raises:
        RunError: If the hub refuses it; the folder is there all the same.
    """
    with _explain_faults(repo, f"{folder} is written, but ", RunError):
        url = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="holdfast export", delete_patterns=list(WEIGHTS)
        )
    return str(url)


@contextmanager
def _explain_faults(repo: str, done: str = "", kind: type[HoldfastError] = UserError) -> Iterator[None]:
    """What can be wrong with the hub, as one line."""
    start = f"{done}--push: {repo} cannot be written to"
    try:
        yield
    except OfflineModeIsEnabled as error:
        raise kind(f"{start}, because HF_HUB_OFFLINE is set; unset it, or leave --push out") from error
    except LocalTokenNotFoundError as error:
        raise kind(f"{start}: nobody is logged in; run hf auth login, or set HF_TOKEN") from error
    except HFValidationError as error:
        raise kind(f"--push: {first_line(error)}") from error
    except HfHubHTTPError as error:
        raise kind(f"{start}: the hub says {first_line(error)}") from error
    except (HTTPError, OSError) as error:
        raise kind(f"{start}: the hub cannot be reached ({first_line(error)}); leave --push out") from error
