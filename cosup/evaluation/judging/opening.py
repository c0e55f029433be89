"""From what `--judge` says to a judge.

cross-encoder/nli-deberta-v3-base         a hub id or folder: a sequence classifier (NLI)
google/t5_xxl_true_nli_mixture            or an encoder-decoder that answers 1 or 0
http://localhost:8000/v1#MODEL            a model behind an endpoint that speaks the OpenAI chat format
my_module:my_function                     a Python function (premise, hypothesis) -> bool, probability or Decision
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

from cosup.errors import CosupError, UsageError, did_you_mean
from cosup.evaluation.judging.base import THRESHOLD, FunctionJudge, Judge, one_line
from cosup.evaluation.judging.cache import CachedJudge, Progress

FORMS = "a hub id or folder (NLI classifier, or T5 of TRUE's kind), http(s)://HOST/v1#MODEL, or MODULE:FUNCTION"
_URL = re.compile(r"https?:/", re.IGNORECASE)
_FUNCTION = re.compile(r"(?P<module>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<function>[^\W\d]\w*)")


@dataclass(frozen=True, slots=True)
class JudgeOptions:
    """How a judge decides; what is None is left to the judge.

    Attributes:
        label: of a classifier: the label, or its number, that means entailment.
        threshold: of a classifier or function: the probability from which on a pair is entailed.
        batch_size: of a model: pairs a batch.
        dtype: of a model: `auto`, `float32` or `bfloat16`.
        device: of a model: as torch names it.
        timeout: of an endpoint: seconds that a request may take.
        parallel: of an endpoint: requests at once.
        key_variable: of an endpoint: environment variable with the key.
    """

    label: str | None = None
    threshold: float | None = None
    batch_size: int | None = None
    dtype: str | None = None
    device: str | None = None
    timeout: float | None = None
    parallel: int | None = None
    key_variable: str | None = None

    def only(self, judge: str, *names: str) -> Mapping[str, Any]:
        """Return the options that are set.

        Args:
            judge: what kind of judge they are for.
            names: the options that it has.

        Raises:
            UsageError: another one is set.
        """
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        found = {name: value for name, value in given.items() if value is not None}
        for name in found:
            if name not in names:
                option = f"--judge-{name.replace('_', '-')}"
                raise UsageError(f"the judge's {option} is of no use to {judge}; leave it out")
        return found


def open_judge(
    spec: str,
    options: JudgeOptions = JudgeOptions(),
    cache: str | Path | None = None,
    progress: Progress | None = None,
) -> Judge:
    """Return the judge that `spec` names; a model's weights are read when it is first asked.

    Args:
        spec: see the top of the file.
        options: how it decides.
        cache: folder where verdicts are kept; None keeps none.
        progress: called while pairs are decided; needs `cache`.

    Raises:
        UsageError: there is no such judge, or it does not have such options; says what is possible.
    """
    judge = _opened(spec, options)
    return judge if cache is None else CachedJudge(judge, cache, progress)


def _opened(spec: str, options: JudgeOptions) -> Judge:
    if _URL.match(spec):
        return _chat(spec, options)
    found = _FUNCTION.fullmatch(spec)
    if found and not Path(spec).exists():
        return _function(found["module"], found["function"], options)
    if not spec.strip():
        raise UsageError(f"the judge is '{spec}'; expected {FORMS}")
    return _model(spec, options)


def _chat(spec: str, options: JudgeOptions) -> Judge:
    from cosup.evaluation.judging.chat import ChatJudge, ChatSettings

    given = options.only("an endpoint", "timeout", "parallel", "key_variable")
    url, _, model = spec.partition("#")
    return ChatJudge(url, model, ChatSettings(**given))


def _function(module: str, name: str, options: JudgeOptions) -> Judge:
    given = options.only("a function", "threshold")
    holder = _imported(module)
    found: Any = getattr(holder, name, None)
    if hasattr(found, "decide") and hasattr(found, "name") and not given:
        judge: Judge = found
        return judge
    if not callable(found):
        if name in vars(holder):
            raise UsageError(f"the judge is '{module}:{name}', but that is no function")
        hint = did_you_mean(name, vars(holder))
        raise UsageError(f"the judge is '{module}:{name}', but {module} has no function '{name}'{hint}")
    return FunctionJudge(found, threshold=given.get("threshold", THRESHOLD))


def _imported(module: str) -> ModuleType:
    """Import a module of the working folder or of what is installed."""
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        return importlib.import_module(module)
    except CosupError:
        raise
    except Exception as error:
        found = one_line(f"{type(error).__name__}: {error}")
        missing = isinstance(error, ModuleNotFoundError) and module.startswith(str(error.name))
        hint = f"; looked in {Path.cwd()} and among what is installed" if missing else ""
        raise UsageError(f"the judge's module '{module}' cannot be imported: {found}{hint}") from error


def _model(spec: str, options: JudgeOptions) -> Judge:
    from cosup.evaluation.judging.classifier import ClassifierJudge
    from cosup.evaluation.judging.loading import Checkpoint, ModelSettings
    from cosup.evaluation.judging.seq2seq import Seq2SeqJudge

    names = {"batch_size", "dtype", "device"}
    given = {name: getattr(options, name) for name in names if getattr(options, name) is not None}
    try:
        checkpoint = Checkpoint(spec, ModelSettings(**given))
        _ = checkpoint.tokenizer  # a missing library is better told now than when everything else is done
    except UsageError as error:
        raise UsageError(f"{error}; a judge is {FORMS}") from error
    if checkpoint.architecture.endswith("ForSequenceClassification"):
        chosen = options.only("a classifier", "label", "threshold", *names)
        own = {name: value for name, value in chosen.items() if name not in names}
        return ClassifierJudge(checkpoint, **own)
    if getattr(checkpoint.config, "is_encoder_decoder", False):
        options.only("a model that writes 1 or 0", *names)
        return Seq2SeqJudge(checkpoint)
    found = checkpoint.architecture or type(checkpoint.config).__name__
    raise UsageError(f"'{spec}' is a {found}, which does not judge pairs; a judge is {FORMS}")
