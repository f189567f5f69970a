"""``multi-attempt data``: training and evaluation sets of public sources, or of a user's own files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from multi_attempt.data.files import LocalFile
from multi_attempt.data.hub import HubDataset
from multi_attempt.data.prepare import Options, Request, prepare
from multi_attempt.data.sources import ROLES, Source, default_sources, known_sources, of_task, own_source
from multi_attempt.tasks.load import DEFAULT
from multi_attempt.tasks.options import FLAG, add_task_arguments, task_settings

# The options that only a source of the user's own takes, by their names in the parsed arguments.
_OWN = {
    "role": "--role",
    "question_field": "--question-field",
    "answer_field": "--answer-field",
    "context_field": "--context-field",
    "task": "--task",
    "task_setting": FLAG,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.epilog = f"Sources known by name: {', '.join(known_sources())}. Any other name is a source of your own."
    parser.add_argument(
        "source",
        nargs="*",
        metavar="SOURCE",
        help=f"what to prepare (default: what the paper uses, {' '.join(default_sources())})",
    )
    parser.add_argument(
        "--from",
        dest="files",
        action="append",
        default=[],
        metavar="[SOURCE=]FILE",
        help="read a source from a .jsonl, .json or .parquet file instead of the Hugging Face hub; may be given again",
    )
    parser.add_argument("--output", type=Path, default=Path("data"), help="folder to write (default data)")
    parser.add_argument(
        "--validation", type=int, default=128, metavar="N", help="training questions held out (default 128; 0: none)"
    )
    parser.add_argument(
        "--validation-attempts",
        type=int,
        nargs="+",
        default=[1, 2, 5],
        metavar="K",
        help="numbers of attempts to validate with (default 1 2 5)",
    )
    parser.add_argument(
        "--evaluation-attempts",
        type=int,
        nargs="+",
        default=[],
        metavar="K",
        help="write evaluation sets also with these numbers of attempts, to be validated on during training",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draw of validation questions (default 0)")
    parser.add_argument("--revision", help="revision of the datasets on the hub (default: the newest)")
    parser.add_argument("--refresh", action="store_true", help="ask the hub for a newer revision of what is there")
    parser.add_argument("--role", choices=ROLES, help="what a source of your own is for")
    parser.add_argument("--question-field", metavar="F", help="its field of the question (default question or problem)")
    parser.add_argument("--answer-field", metavar="F", help="its field of the gold answer (default answer)")
    parser.add_argument(
        "--context-field",
        metavar="F",
        help="its field of what to put before the question (default context; '': none)",
    )
    add_task_arguments(parser.add_argument)


def run(arguments: argparse.Namespace) -> int:
    """Prepare the sources, unless they are there already."""
    attempts = tuple(arguments.evaluation_attempts)
    options = Options(arguments.validation, tuple(arguments.validation_attempts), arguments.seed, attempts)
    requests = _requests(arguments)
    if attempts and all(request.source.trains for request in requests):
        raise ValueError(
            f"--evaluation-attempts = {' '.join(map(str, attempts))}, but no source is for evaluation; name one, or "
            "leave it out"
        )
    prepare(requests, arguments.output, options)
    return 0


def _requests(arguments: argparse.Namespace) -> list[Request]:
    names = list(dict.fromkeys(arguments.source)) or default_sources()
    files = _files(arguments.files, names)
    known = known_sources()
    own = [name for name in names if name not in known]
    for attribute, option in _OWN.items():
        if getattr(arguments, attribute) is not None and not own:
            raise ValueError(
                f"{option} = {getattr(arguments, attribute)} is for a source of your own, and all named are known; "
                "leave it out"
            )
    if arguments.revision and set(names) <= set(files):
        raise ValueError(f"--revision = {arguments.revision}, but no source is read from the hub; leave it out")
    return [_request(known.get(name) or _own_source(name, arguments, files), arguments, files) for name in names]


def _own_source(name: str, arguments: argparse.Namespace, files: Mapping[str, Path]) -> Source:
    if not arguments.role or name not in files:
        raise ValueError(
            f"SOURCE = {name!r} is none of {', '.join(known_sources())}; for a source of your own, say where its rows "
            f"are and what they are for: --from {name}=FILE --role {'|'.join(ROLES)}"
        )
    fields = arguments.question_field, arguments.answer_field, arguments.context_field
    source = own_source(name, arguments.role, *fields)
    if arguments.task in (None, DEFAULT):
        return source
    if arguments.answer_field:
        raise ValueError(
            f"--answer-field = {arguments.answer_field}: the rows of the task {arguments.task!r} have what it needs in "
            "fields of its own; leave the option out"
        )
    return of_task(source, arguments.task, task_settings(arguments.task_setting or ()).get(arguments.task, {}))


def _request(source: Source, arguments: argparse.Namespace, files: Mapping[str, Path]) -> Request:
    if source.name in files:
        return Request(source, LocalFile(files[source.name]))
    return Request(source, HubDataset(source, arguments.revision, arguments.refresh))


def _files(values: Sequence[str], names: Sequence[str]) -> dict[str, Path]:
    """The files of ``--from``, by source."""
    files: dict[str, Path] = {}
    for value in values:
        name, separator, file = value.partition("=")
        if name not in names or not separator:
            if len(names) != 1 or (separator and not Path(value).is_file()):
                raise ValueError(f"--from = {value!r}: write SOURCE=FILE, with SOURCE one of {', '.join(names)}")
            name, file = names[0], value
        if name in files:
            raise ValueError(f"--from names two files for {name}: {files[name]} and {file}; leave one out")
        files[name] = Path(file).expanduser()
    return files
