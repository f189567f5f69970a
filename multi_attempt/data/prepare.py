"""From a source's rows to its folder: read, check, compare, split, write."""

from __future__ import annotations

import asyncio
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from multi_attempt.data import store
from multi_attempt.data.files import LocalFile
from multi_attempt.data.golds import is_prose
from multi_attempt.data.hub import HubDataset
from multi_attempt.data.marks import special_tokens
from multi_attempt.data.overlap import Overlap, same_text
from multi_attempt.data.rows import evaluation_source, make_row
from multi_attempt.data.sources import Question, Source, read_question
from multi_attempt.tasks.load import DEFAULT, Asked, row_problem, row_problems

# Raised when the same rows and options make other files than before, so that those are made again.
_FORMAT = 2
# With many refused rows, this many are printed and the rest counted; the manifest has all.
_PRINTED_ROWS = 5
# Characters of a wrong value in a message.
_SHOWN = 80


@dataclass(frozen=True)
class Options:
    """How training rows are split, and which rows beside them a run can validate on.

    Attributes:
        validation: how many questions are drawn from them for validation, and taken out of them.
        validation_attempts: the numbers of attempts that each of these is validated with.
        seed: of the draw.
        evaluation_attempts: the numbers of attempts that each question of an evaluation set is given during training;
            none if it is left for afterwards.
    """

    validation: int = 128
    validation_attempts: tuple[int, ...] = (1, 2, 5)
    seed: int = 0
    evaluation_attempts: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.validation < 0:
            raise ValueError(f"--validation = {self.validation} must be 0, for none, or more")
        _check_attempts("--validation-attempts", self.validation_attempts, needed=self.validation > 0)
        _check_attempts("--evaluation-attempts", self.evaluation_attempts, needed=False)

    def of(self, source: Source) -> dict[str, Any]:
        """Those that decide what a source's folder holds."""
        options = asdict(self)
        attempts = options.pop("evaluation_attempts")
        if source.trains:
            return options
        return {"evaluation_attempts": attempts} if attempts else {}


def _check_attempts(option: str, attempts: Sequence[int], *, needed: bool) -> None:
    if (needed and not attempts) or min(attempts, default=1) < 1 or len(set(attempts)) < len(attempts):
        raise ValueError(f"{option} = {' '.join(map(str, attempts))}: give whole numbers of at least 1, each once")


@dataclass(frozen=True)
class Request:
    """A source, and where its rows are read from."""

    source: Source
    origin: LocalFile | HubDataset


@dataclass
class _Prepared:
    """A source's rows on their way, and what became of the others."""

    request: Request
    questions: dict[str, Question]  # by id; those that are left
    counts: Counter[str]
    removed: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    contradictions: list[dict[str, Any]] = field(default_factory=list)
    outputs: dict[str, list[dict[str, Any]]] = field(default_factory=dict)


def prepare(requests: Sequence[Request], output: Path, options: Options) -> None:
    """Write the folders of sources, but those that are there already. Nothing is written if any of them fails.

    Raises:
        ValueError: a file is not what it says, the hub cannot be reached, no row is left, or a source is not compared
            with the evaluation sets that its rows are among; or another process is writing to the folder.
        OSError: a file cannot be read or written.
    """
    with store.sole_writer(output):
        _prepare(requests, output, options)


def _prepare(requests: Sequence[Request], output: Path, options: Options) -> None:
    evaluation = [request for request in requests if not request.source.trains]
    missing = [request for request in evaluation if not _is_there(request, output, options, {})]
    present = _present_sets(requests, output, missing)
    prepared = [_prepare_evaluation(request, options) for request in missing]
    training = [request for request in requests if request.source.trains]
    if not missing:
        training = [request for request in training if not _is_there(request, output, options, present)]
    if training:
        overlap = _overlap(output, present, prepared)
        prepared += [_prepare_training(request, overlap, options) for request in training]
    for job in prepared:
        _write(job, output, options)


def _present_sets(requests: Sequence[Request], output: Path, missing: Sequence[Request]) -> dict[str, str]:
    """The evaluation sets that stand in the output folder, and are not made anew, with their hashes."""
    anew = {request.source.name for request in missing}
    training = [request.source for request in requests if request.source.trains]
    present = store.evaluation_sets(output, anew) if training else {}
    for source in training:
        for name in source.without:
            if name not in present and name not in anew:
                raise ValueError(
                    f"{source.name}: rows of {name} are among its own, and {name} is not there to compare with; name "
                    f"{name} too, as in: multi-attempt data {source.name} {name}"
                )
    if training and not present and not anew:
        print("warning: no evaluation set to compare with; training rows may stand in one", file=sys.stderr)
    return present


def _is_there(request: Request, output: Path, options: Options, compared: Mapping[str, str]) -> bool:
    """Whether an earlier run has made the same; says so."""
    folder = output / request.source.name
    manifest = store.read_manifest(folder)
    if manifest is None or manifest.get("recipe") != _recipe(request.source, options):
        return False
    if manifest.get("compared_with") != _listed(compared):
        return False
    if not store.is_untouched(folder, manifest) or not request.origin.matches(manifest["origin"]):
        return False
    print(f"{folder}: already there, made of the same")
    return True


def _recipe(source: Source, options: Options) -> dict[str, Any]:
    """What decides the outputs, beside the rows and the evaluation sets, as it comes back from JSON."""
    recipe = {"format": _FORMAT, "source": source.recipe, "options": options.of(source)}
    return dict(json.loads(json.dumps(recipe)))


def _listed(compared: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"source": name, "sha256": digest} for name, digest in sorted(compared.items())]


def _overlap(output: Path, present: Mapping[str, str], prepared: Sequence[_Prepared]) -> Overlap:
    sets = {name: store.evaluation_questions(output, name) for name in present}
    for job in prepared:
        sets[job.request.source.name] = [question.text for question in job.questions.values()]
    return Overlap(sets)


def _prepare_evaluation(request: Request, options: Options) -> _Prepared:
    """An evaluation set: every row whose gold answer is sound; once more for each number of attempts, if any."""
    job = _read(request)
    name, task = request.source.name, request.source.task
    job.outputs = {store.TEST: [_row(id, question, name, "test", task) for id, question in job.questions.items()]}
    if options.evaluation_attempts:
        job.outputs[store.TEST_WITH_ATTEMPTS] = [
            _row(id, question, evaluation_source(name, attempts), "test", task, attempts)
            for attempts in options.evaluation_attempts
            for id, question in job.questions.items()
        ]
    return job


def _prepare_training(request: Request, overlap: Overlap, options: Options) -> _Prepared:
    """A training set: of the levels wanted, in no evaluation set, each question once, less those for validation."""
    job = _read(request)
    _keep_levels(job)
    _remove_contaminated(job, overlap)
    _remove_duplicates(job)
    _split(job, options)
    return job


def _read(request: Request) -> _Prepared:
    """The rows of a source whose gold answers are sound, with their ids."""
    source = request.source
    rows = tqdm(request.origin.read(), desc=f"Checking {source.name}", unit="row")
    # Every row is read before any is graded: a file that is not what it says is known at once.
    questions = _with_ids(source.name, [read_question(raw, source) for raw in rows])
    job = _Prepared(request, questions, Counter(read=len(questions)))
    _refuse(job)
    _contradict(job)
    if not job.questions:
        reason = job.removed["refused"][0]["reason"]
        raise ValueError(
            f"{source.name}: no row is left of {job.counts['read']}, the first since its {reason}; name rows that have "
            "gold answers"
        )
    return job


def _with_ids(name: str, questions: Sequence[Question]) -> dict[str, Question]:
    """Questions by ids that do not depend on which other rows there are, as far as that can be."""
    upstream = Counter(question.upstream for question in questions)
    named: dict[str, Question] = {}
    seen: Counter[str] = Counter()
    for question in questions:
        key = question.upstream
        if not key or upstream[key] > 1:
            key = hashlib.sha256(question.text.encode()).hexdigest()[:16]
        seen[key] += 1
        named[f"{name}/{key}" if seen[key] == 1 else f"{name}/{key}-{seen[key]}"] = question
    if len({_index(id) for id in named}) < len(questions):
        raise ValueError(f"{name}: two rows have the same id or index; give the rows ids of their own in a field id")
    return named


def _index(id: str) -> int:
    """A whole number for an id: of 48 bits, so that among a million rows two are equal once in 500 times."""
    return int.from_bytes(hashlib.sha256(id.encode()).digest()[:6], "big")


def _refuse(job: _Prepared) -> None:
    """Take out the rows that cannot be asked, or whose gold response is not right by their own task."""
    source, refused = job.request.source, []
    questions = list(job.questions.values())
    for (id, question), problem in zip(job.questions.items(), _gold_problems(questions, source), strict=True):
        if reason := _unusable(question, source) or problem:
            where = {"part": question.raw.part} if question.raw.part else {}
            refused.append({**where, "line": question.raw.line, "id": id, "reason": reason})
    _remove(job, "refused", refused)


def _gold_problems(questions: Sequence[Question], source: Source) -> list[str]:
    """For each question what its task has against it; empty for nothing."""
    tasks = source.tasks
    asked = [question.asked(tasks) for question in questions]
    tasks.default.check()

    async def of_math(each: Asked[Any]) -> str:  # all else has been looked at where it was read
        return await each.task.gold_problem(each.row)

    problem = of_math if source.task == DEFAULT else row_problem
    bar = tqdm(total=len(asked), desc=f"Grading {source.name}", unit="row")

    async def problems() -> list[str]:
        try:
            with bar:
                return await row_problems(asked, problem, bar.update)
        finally:
            await tasks.close()

    return asyncio.run(problems())


def _unusable(question: Question, source: Source) -> str:
    """Why a row cannot be used, as far as that can be seen without grading; empty if it can."""
    if marks := special_tokens(question.text):
        return (
            f"the question holds {', '.join(map(repr, marks))}, which many models take for a special token; write it "
            "otherwise"
        )
    if source.gold.get(question.gold_field) == "solution" and is_prose(question.gold):
        return (
            f"{question.gold_field} = {question.gold[:_SHOWN]!r} is prose, and no answer to compare with; give the "
            r"bare answer, or a solution that ends in #### ANSWER or has \boxed{ANSWER}"
        )
    return ""


def _remove(job: _Prepared, why: str, records: list[dict[str, Any]]) -> None:
    job.removed[why] = records
    job.counts[why] = len(records)
    for record in records:
        del job.questions[record["id"]]


def _contradict(job: _Prepared) -> None:
    """Note the questions that stand there again with another gold answer: one of the two is wrong."""
    first: dict[str, str] = {}
    tasks = job.request.source.tasks
    same = tasks.default.same
    for id, question in job.questions.items():
        other = job.questions[first.setdefault(same_text(question.text), id)]
        if question.gold == other.gold or same(question.gold, other.gold):
            continue
        job.contradictions.append(
            {
                "id": id,
                **_stands(question),
                "other": first[same_text(question.text)],
                **{f"other_{key}": value for key, value in _stands(other).items()},
            }
        )
    asyncio.run(tasks.close())


def _stands(question: Question) -> dict[str, Any]:
    return {"line": question.raw.line, "gold": question.gold}


def _keep_levels(job: _Prepared) -> None:
    levels = job.request.source.levels
    kept = {id: question for id, question in job.questions.items() if not levels or question.level in levels}
    job.counts["filtered_by_level"] = len(job.questions) - len(kept)
    job.questions = kept


def _remove_contaminated(job: _Prepared, overlap: Overlap) -> None:
    found = {id: overlap.find(question.text) for id, question in job.questions.items()}
    _remove(job, "contaminated", [{"id": id, "stands_in": sets} for id, sets in found.items() if sets])


def _remove_duplicates(job: _Prepared) -> None:
    """Keep the first of the questions that are the same but for what changes nothing."""
    first: dict[str, str] = {}
    records = []
    for id, question in job.questions.items():
        same = first.setdefault(same_text(question.text), id)
        if same != id:
            records.append({"id": id, "same_as": same})
    _remove(job, "duplicates", records)


def _split(job: _Prepared, options: Options) -> None:
    """Draw the validation questions, and make the rows of both."""
    name, task = job.request.source.name, job.request.source.task
    if options.validation >= len(job.questions):
        raise ValueError(
            f"{name}: {len(job.questions)} training rows are left, and --validation = {options.validation} of them "
            "would be taken out; lower it, or give more rows"
        )
    # By a hash of seed and id, so that a row more or less changes the draw by one row at most.
    drawn = sorted(job.questions, key=lambda id: hashlib.sha256(f"{options.seed}/{id}".encode()).digest())
    validation = set(drawn[: options.validation])
    train = [_row(id, question, name, "train", task) for id, question in job.questions.items() if id not in validation]
    job.outputs["train.parquet"] = train
    job.counts.update(train=len(train), validation=len(validation))
    if validation:
        job.outputs["validation.parquet"] = [
            _row(id, question, f"{name}_{attempts}_attempts", "validation", task, attempts)
            for attempts in options.validation_attempts
            for id, question in job.questions.items()
            if id in validation
        ]


def _row(
    id: str, question: Question, data_source: str, split: str, task: str, attempts: int | None = None
) -> dict[str, Any]:
    return make_row(
        question.text,
        question.gold,
        data_source=data_source,
        index=_index(id),
        split=split,
        attempts=attempts,
        id=id,
        tolerance=question.tolerance,
        task=task,
        fields=question.fields,
    )


def _write(job: _Prepared, output: Path, options: Options) -> None:
    source = job.request.source
    folder = output / source.name
    job.counts["kept"] = len(job.questions)
    compared = store.evaluation_sets(output) if source.trains else {}
    manifest = {
        "source": source.name,
        "origin": job.request.origin.origin(),
        "recipe": _recipe(source, options),
        "counts": dict(job.counts),
        "compared_with": _listed(compared),
        "contaminated_by_set": _by_set(job.removed.get("contaminated", ())),
        **job.removed,
        "contradictions": job.contradictions,
    }
    store.write(folder, job.outputs, manifest)
    _report(job, folder)


def _by_set(contaminated: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """How many rows stand in each evaluation set, by how they do."""
    counts: dict[str, dict[str, int]] = {}
    for record in contaminated:
        for name, how in record["stands_in"].items():
            counts.setdefault(name, {"exact": 0, "normalised": 0})[how] += 1
    return counts


def _report(job: _Prepared, folder: Path) -> None:
    """Say what was written, and what was not."""
    counts = ", ".join(f"{name.replace('_', ' ')} {count}" for name, count in job.counts.items())
    print(f"{folder}: wrote {' and '.join(job.outputs)}; rows: {counts}")
    for name, found in _by_set(job.removed.get("contaminated", ())).items():
        print(f"  removed, since they stand in {name}: {found['exact']} exact, {found['normalised']} normalised")
    refused = job.removed["refused"]
    for record in refused[:_PRINTED_ROWS]:
        print(f"  refused: line {record['line']}, {record['id']}: {record['reason']}")
    if len(refused) > _PRINTED_ROWS:
        print(f"  refused: {len(refused) - _PRINTED_ROWS} more; {store.MANIFEST} names them")
    for record in job.contradictions[:_PRINTED_ROWS]:
        print(
            f"  the same question with another gold answer: line {record['line']}, {record['gold']!r}, and line "
            f"{record['other_line']}, {record['other_gold']!r}; one is wrong: correct the file"
        )
    if len(job.contradictions) > _PRINTED_ROWS:
        print(f"  the same with another: {len(job.contradictions) - _PRINTED_ROWS} more; {store.MANIFEST} names them")
