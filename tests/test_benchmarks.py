"""The benchmarks: the yardstick does what is said of it, figures are counted rightly, pages say what records say."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from cosup.data.atlas import build_atlas
from cosup.data.encoding import EncodedExample, Kind
from cosup.data.writing import write_jsonl
from cosup.records import Answer, Question
from tests.pairs import BY_ID, EXAMPLES, QUESTIONS, TinyWorld, encoder, pair

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))  # they import one another as scripts do

import answering as answering_benchmark
import embedding as embedding_benchmark
import evaluation as evaluation_benchmark
import gpu_decoding
import gpu_training
import performance_page
import retrieval as retrieval_benchmark
import serving as serving_benchmark
import training as training_benchmark
import two_nodes
import yardstick
from gpu_training import Part, Shape, World
from yardstick import Counts, Meter, Yardstick

CPU = torch.device("cpu")
BENCHMARKS = Path(yardstick.__file__).parent


def encoded(model: Any, count: int = 4) -> list[EncodedExample]:
    own = encoder(model)
    found = [own.example(e, BY_ID) for e in EXAMPLES[:count]]
    found[0].add([found[0].input_ids[-1]] * 7, Kind.WRITTEN)  # so that the others are padded
    return found


def settings(rate: float = 1e-3, **more: Any) -> Yardstick:
    return Yardstick(rate, 4, generator_pad=0, embedder_pad=0, **more)


def passage_encoder(model: Any) -> Callable[[str], list[int]]:
    return lambda passage_id: model.encode_passage(BY_ID[passage_id].rendered)


def batch_of(model: Any) -> dict[str, torch.Tensor]:
    return yardstick.collate(encoded(model), passage_encoder(model), settings())


# -- the yardstick -----------------------------------------------------------------------------------------------------


def test_the_yardstick_labels_padding_and_passages_and_not_the_prompt() -> None:
    model = pair()
    examples, batch = encoded(model), batch_of(model)
    for row, example in enumerate(examples):
        own, prompt = len(example.input_ids), sum(kind == Kind.PROMPT for kind in example.kinds)
        assert batch["labels"][row, :prompt].tolist() == [-100] * prompt
        assert batch["labels"][row, prompt:own].tolist() == example.input_ids[prompt:]
        assert set(batch["labels"][row, own:].tolist()) <= {0}
    assert (batch["attention_mask"][1:, -1] == 0).all()
    assert len(batch["passage_input_ids"]) == sum(len(e.passage_ids) for e in examples)


@torch.no_grad()
def test_the_yardstick_loss_is_the_one_computed_by_hand() -> None:
    model = pair()
    model.double()
    batch = batch_of(model)
    own = settings(nsp_weight=0.5)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    out = model.generator(ids, attention_mask=mask, output_hidden_states=True)
    terms = []
    for row in range(len(ids)):
        for place in range(1, ids.shape[1]):
            target = int(batch["labels"][row, place])
            if target != -100:
                terms.append(-float(out.logits[row, place - 1].log_softmax(-1)[target]))
    queries = out.hidden_states[-1][batch["ret_rows"], batch["ret_columns"]]
    states = model.embedder(batch["passage_input_ids"], attention_mask=batch["passage_attention_mask"])
    scores = queries @ states.last_hidden_state[:, -1].T
    nsp = [-float(scores[i].log_softmax(-1)[i]) for i in range(len(scores))]
    expected = sum(terms) / len(terms) + 0.5 * sum(nsp) / len(nsp)
    found = yardstick.step_loss(model.generator, model.embedder, batch, own)
    assert float(found) == pytest.approx(expected, rel=1e-9)


@torch.no_grad()
def test_the_yardstick_reads_padding_states_as_embeddings() -> None:
    model = pair()
    batch = batch_of(model)
    assert (batch["passage_attention_mask"][:, -1] == 0).any()
    longer = dict(batch)
    for name in ("passage_input_ids", "passage_attention_mask"):
        longer[name] = torch.cat([batch[name], torch.zeros_like(batch[name][:, :3])], dim=1)
    losses = [float(yardstick.step_loss(model.generator, model.embedder, b, settings())) for b in (batch, longer)]
    assert losses[0] != pytest.approx(losses[1], rel=1e-6)  # the fault it is there to show


def test_the_yardstick_clips_the_body_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    model = pair()
    norms: dict[str, float] = {}

    def spy(self: Any, closure: Any = None) -> None:
        for name, part in (("body", model.generator.base_model), ("embedder", model.embedder)):
            norms[name] = float(torch.stack([p.grad.norm() for p in part.parameters() if p.grad is not None]).norm())

    monkeypatch.setattr(torch.optim.AdamW, "step", spy)
    examples, own = encoded(model), settings(max_norm=1e-3, nsp_weight=1.0)
    yardstick.train((model.generator, model.embedder), examples, passage_encoder(model), own, Meter(CPU))
    assert norms["body"] == pytest.approx(1e-3, rel=1e-2)
    assert norms["embedder"] > 1e-2


def test_the_yardstick_learns() -> None:
    model = pair()
    meter = Meter(CPU)
    examples = encoded(model) * 15
    losses = yardstick.train((model.generator, model.embedder), examples, passage_encoder(model), settings(1e-2), meter)
    assert len(losses) == len(meter.steps) == 15
    assert losses[-1] < 0.7 * losses[0]


# -- measuring ---------------------------------------------------------------------------------------------------------


def test_packed_and_padded_batches_count_alike() -> None:
    ids, labels = torch.ones(1, 5, dtype=torch.long), torch.tensor([[-100, 7, 7, -100, 7]])
    packed = {"input_ids": ids, "lengths": torch.tensor([3, 2]), "labels": labels}
    packed |= {"passage_input_ids": ids[:, :4], "passage_lengths": torch.tensor([4])}
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    padded = {"input_ids": mask, "attention_mask": mask, "labels": torch.tensor([[-100, 7, 7], [-100, 7, -100]])}
    padded |= {"passage_input_ids": ids[:, :4], "passage_attention_mask": ids[:, :4]}
    expected = Counts(5, 4, 2 * 16, 13, 16, 3)  # packed rows are rounded up
    assert yardstick.count_batch(packed) == expected
    assert yardstick.count_batch(padded) == replace(expected, slots=10)
    assert yardstick.count_batch({"packs": [packed, padded]}) == Counts(10, 8, 42, 26, 32, 6)


def test_a_meter_leaves_the_warm_up_out_of_the_rate_and_not_of_the_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 10.0, 12.0, 16.0])
    monkeypatch.setattr(yardstick.time, "perf_counter", lambda: next(times))
    meter = Meter(CPU)
    meter.start()
    for real, slots in ((1, 2), (8, 10), (12, 12)):
        meter.add(Counts(generator=real - 1, embedder=1, slots=slots))
        meter.end_step()
    report = meter.report()
    assert report["rates"] == [4.0, 3.0]
    assert report["tokens_per_second"] == pytest.approx(20 / 6)  # a step counts by the time it takes
    assert report["padding_share"] == pytest.approx(1 - 21 / 24)


def test_peak_memory_grows_with_what_is_held() -> None:
    before = yardstick.peak_memory_gb(CPU)
    held = torch.ones(int(before * 1e9) // 4 + 50_000_000)
    after = yardstick.peak_memory_gb(CPU)
    assert after - before > 0.15
    assert held[0] == 1


@torch.no_grad()
def test_the_held_out_loss_is_over_what_the_model_writes_whatever_the_batch() -> None:
    model = pair()
    examples = encoded(model)
    terms = []
    for example in examples:
        logits = model.generator(torch.tensor([example.input_ids])).logits[0].log_softmax(-1)
        for place, (token, kind) in enumerate(zip(example.input_ids, example.kinds, strict=True)):
            if kind == Kind.WRITTEN:
                terms.append(-float(logits[place - 1, token]))
    for size in (1, 4):
        found = yardstick.held_out_loss(model.generator, examples, size)
        assert found == pytest.approx(sum(terms) / len(terms), rel=1e-5)


# -- benchmarks/training.py --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> training_benchmark.Setting:
    folder = tmp_path_factory.mktemp("benchmark")
    atlas = build_atlas(seed=0, train_entities=400, test_entities=20)
    write_jsonl(folder / "passages.jsonl", atlas.train_passages)
    write_jsonl(folder / "questions.jsonl", atlas.train_questions)
    setting = training_benchmark.Setting(
        str(folder / "passages.jsonl"), str(folder / "questions.jsonl"), steps=2, batch_size=3, threads=1, layers=1,
        hidden=32, vocabulary=2000, held_out=5,
    )  # fmt: skip
    return replace(setting, tokenizer=str(training_benchmark.train_tokenizer(setting, folder / "tokenizer")))


def test_all_runs_start_from_the_same_weights_and_see_the_same_examples(small: training_benchmark.Setting) -> None:
    still = replace(small, learning_rate=0.0)
    found = {name: training_benchmark.run(name, still) for name in training_benchmark.RUNS}
    losses = [figures["loss"] for figures in found.values()]
    assert losses == [losses[0]] * 3
    assert losses[0] == pytest.approx(math.log(small.vocabulary), rel=0.1)
    ours, theirs = found["cosup"]["real_tokens"], found["baseline"]["real_tokens"]
    assert found["cosup_same_supervision"]["real_tokens"] == ours
    assert 0.8 * theirs <= ours <= theirs  # the baseline embeds a passage once for each [Ret]
    for figures in found.values():
        assert len(figures["seconds"]) == small.steps
        assert figures["peak_memory_gb"] > 0.05


def test_held_out_questions_are_the_last_and_never_trained_on(small: training_benchmark.Setting) -> None:
    lines = Path(small.questions).read_text(encoding="utf-8").splitlines()
    last = [json.loads(line)["id"] for line in lines[-small.held_out :]]
    _, trained, held_out = training_benchmark.load_data(replace(small, steps=len(lines)))
    assert [e.id for e in held_out] == last
    assert len(trained) == 3 * len(lines)
    assert {e.id for e in trained} == {json.loads(line)["id"] for line in lines[: -small.held_out]}


def runs() -> dict[str, Any]:
    def figures(rate: float, memory: float, loss: float) -> dict[str, Any]:
        return {"tokens_per_second": rate, "padding_share": 0.25, "peak_memory_gb": memory, "loss": loss}

    return {
        "baseline": figures(200.0, 10.0, 5.0),
        "cosup": figures(1100.0, 3.0, 4.9),
        "cosup_same_supervision": figures(900.0, 3.5, 5.05),
    }


def test_ratios_are_ours_over_the_baseline() -> None:
    found = training_benchmark.summary(runs())
    assert found["speedup"] == pytest.approx(5.5)
    assert found["speedup_same_supervision"] == pytest.approx(4.5)
    assert found["memory_ratio"] == pytest.approx(0.3)
    assert found["loss_ratio"] == pytest.approx(0.98)
    alone = training_benchmark.summary({"cosup": runs()["cosup"]})
    assert set(alone) == {"cosup"}


def test_a_setting_survives_its_way_to_another_process(small: training_benchmark.Setting, tmp_path: Path) -> None:
    own = replace(small, options={"micro_batch_tokens": 700, "optim": "adamw_torch"}, learning_rate=1.5e-4, seed=3)
    found = training_benchmark.arguments(training_benchmark.child_words("cosup", own, tmp_path / "result.json"))
    assert training_benchmark.setting_of(found) == own
    assert (found.run, found.json) == ("cosup", tmp_path / "result.json")


def test_the_rate_of_two_runs_is_that_of_all_their_steps() -> None:
    twice = [{"timed_tokens": 30, "tokens_per_second": 10.0}, {"timed_tokens": 10, "tokens_per_second": 5.0}]
    assert training_benchmark.joint_rate(twice) == pytest.approx(40 / 5)


@pytest.mark.bench
def test_each_run_gets_a_process_of_its_own(small: training_benchmark.Setting) -> None:
    found = training_benchmark.in_own_process("baseline", replace(small, steps=2))
    assert len(found["rates"]) == 1
    assert found["tokens_per_second"] == pytest.approx(found["rates"][0])


# -- benchmarks/answering.py -------------------------------------------------------------------------------------------


def test_answering_ratios_are_medians_of_rounds_and_of_the_same_questions() -> None:
    rates = {"baseline_1": [1.0, 2.0, 1.0], "cosup_1": [2.0, 2.0, 3.0], "plain_1": [2.0, 3.0, 3.0]}
    rates |= {"baseline_32": [1.0, 1.0, 2.0], "cosup_32": [9.0, 8.0, 10.0], "plain_32": [9.0, 4.0, 5.0]}
    found = answering_benchmark.figures(rates)
    assert (found["speedup_1"], found["speedup_32"]) == (2.0, 8.0)
    assert (found["overhead_1"], found["overhead_32"]) == (1.0, 0.5)
    assert found["baseline"]["questions_per_second"] == 1.0
    assert found["cosup_32"]["questions_per_second"] == 9.0
    lines = answering_benchmark.table(found)
    assert lines[-1] == "| 32 | 1.00 | 9.00 | 8.00x | 5.00 | 0.50x |"


def test_the_share_of_right_answers_has_wilsons_interval() -> None:
    questions = [Question(str(i), "?", answers=("Rome",)) for i in range(10)]
    answers = [Answer(str(i), "?", "in Rome." if i < 8 else "in Romeo.", "") for i in range(10)]
    found = answering_benchmark.share_right(questions, answers)
    assert found["share"] == 0.8
    assert (found["low"], found["high"]) == (pytest.approx(0.4902, abs=1e-4), pytest.approx(0.9433, abs=1e-4))
    assert answering_benchmark.same_text(answers[:4], answers[6:]) == 0.5


# -- benchmarks/gpu_decoding.py ----------------------------------------------------------------------------------------


def test_a_step_of_decoding_reads_weights_and_caches() -> None:
    own = gpu_decoding.TINY
    found = gpu_decoding.measure(own)
    matrices = own.layers * (4 * own.hidden**2 + 3 * own.hidden * own.inner + 2 * own.hidden)
    weights = matrices + own.hidden + own.vocabulary * own.hidden
    cache = own.rows * (own.context + own.warm_up + own.steps / 2) * own.layers * 2 * own.hidden
    assert found["bytes_per_step"] == 2 * (weights + own.rows * own.hidden + cache)
    assert found["share"] == pytest.approx(
        found["bytes_per_step"] * found["tokens_per_second"] / own.rows / found["bandwidth"]
    )
    assert gpu_decoding.table(found)[-1].startswith("| 3 | ")


# -- benchmarks/embedding.py -------------------------------------------------------------------------------------------


def test_embedding_ratios_are_medians_of_rounds_the_right_way_round() -> None:
    def rounds(*seconds: float) -> list[dict[str, float]]:
        return [{"seconds": s, "processor_seconds": 2 * s} for s in seconds]

    runs = {"bare": rounds(9, 18, 9), "cosup": rounds(10, 20, 90), "sentence_transformers": rounds(20, 30, 90)}
    found = embedding_benchmark.summary(runs, tokens=1000, count=100)
    assert found["ratio_bare"] == found["ratio_bare_processor"] == pytest.approx(0.9)
    assert found["ratio_sentence_transformers"] == pytest.approx(1.5)
    assert found["cosup"] == {"tokens_per_second": 50.0, "passages_per_second": 5.0}


def embedding_record(model: Path, passages: Path) -> dict[str, Any]:
    own = embedding_benchmark.Setting(str(model), str(passages), count=40, rounds=2, threads=1)
    return {"settings": embedding_benchmark._shown(own)} | embedding_benchmark.measure(own)


def test_the_sides_of_embedding_make_the_same_vectors(tiny_world: TinyWorld) -> None:
    record = embedding_record(tiny_world.model, tiny_world.passages)
    assert record["passages"] == 40
    assert record["largest_difference"] < 1e-5
    assert set(record["layouts"]) == {"padded", "packed"}
    text = performance_page.page({"embedding": record | origin()}, {})
    assert f"| cosup | {record['cosup']['tokens_per_second']:.0f} | " in text
    assert "40 passages of `passages.jsonl`" in text


# -- benchmarks/gpu_training.py ----------------------------------------------------------------------------------------

SHAPE = Shape(layers=2, hidden=32, inner=64, heads=2, key_value_heads=1, vocabulary=1024)
WORLD = World(8, 4, 12, 6)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("base")
    gpu_training.save_base(SHAPE, folder)
    return str(folder)


def part(base: str, **more: Any) -> Part:
    return Part(**({"shape": SHAPE, "world": WORLD, "batch_size": 4, "steps": 3, "warm_up": 1, "device": "cpu",
                    "base": base} | more))  # fmt: skip


def test_flops_are_those_that_torch_counts(base: str) -> None:
    model = gpu_training.build_pair(part(base))
    sizes = gpu_training.matrix_parameters(model)
    length = 24
    with FlopCounterMode(display=False) as counter:
        states = model.generator.base_model(torch.zeros(1, length, dtype=torch.long)).last_hidden_state
        model.generator.get_output_embeddings()(states)
    attention = 4 * SHAPE.layers * SHAPE.hidden * length**2  # torch counts all of it, the causal half and the other
    counted = counter.get_flop_counts()["Global"]
    matrices = sum(n for op, n in counted.items() if "attention" not in str(op))
    assert matrices == 2 * length * (sizes["generator"] + sizes["head"])
    assert sizes["embedder"] == sizes["generator"]
    counts = Counts(generator=length, generator_squares=length**2, supervised=length)
    assert gpu_training.step_flops(counts, sizes, SHAPE) == 3 * matrices + 3 * attention / 2


def test_a_world_has_the_lengths_that_are_said(base: str) -> None:
    model = gpu_training.build_pair(part(base))
    own = encoder(model)
    for world in (WORLD, World(4, 60, 250, 179, 0.0)):
        passages, examples = gpu_training.make_world(world, SHAPE.vocabulary)
        lengths = [len(own.example(e, passages).input_ids) for e in examples]
        assert len(examples) == len(passages) == world.examples
        assert max(lengths) <= gpu_training.longest_example(world)
    assert lengths == [512] * 4
    assert len({p.text for p in passages.values()}) == 4


def test_a_part_survives_its_way_to_another_process(base: str) -> None:
    own = part(base, options={"micro_batch_tokens": 7})
    assert gpu_training.read_part(json.loads(json.dumps(asdict(own)))) == own


def test_arithmetic_is_measured(base: str) -> None:
    own = part(base, matmul=64)
    found = gpu_training.run_part(own)
    assert found["flops"] > 0
    assert found["matmul_flops"] > 0
    summary = gpu_training.summarise_mfu({"mfu": found})
    assert summary["mfu"] == pytest.approx(found["flops"] / found["matmul_flops"])
    assert len(found["rates"]) == own.steps - own.warm_up


def test_summaries_compare_the_right_way_round() -> None:
    rates = {"few": {"tokens_per_second": 130.0}, "many": {"tokens_per_second": 100.0}}
    assert gpu_training.summarise_gradcache(rates)["slowdown"] == pytest.approx(1.3)
    peaks = {"full": {"peak_memory_gb": 10.0}, "lora": {"peak_memory_gb": 4.0}}
    assert gpu_training.summarise_lora_memory(peaks)["memory_ratio"] == pytest.approx(0.4)


# -- benchmarks/two_nodes.py -------------------------------------------------------------------------------------------

CURVE = [{"loss": 2.0, "ntp_loss": 1.5, "nsp_loss": 0.5}, {"loss": 1.0, "ntp_loss": 0.8, "nsp_loss": 0.2}]
NEAR = {"largest_weight_difference": 1e-6, "weight_distance": 1e-5}


@pytest.mark.parametrize(
    ("curve", "distance", "equal"),
    [
        (CURVE, NEAR, True),
        ([CURVE[0], CURVE[1] | {"nsp_loss": 0.2004}], NEAR, False),
        (CURVE[:1], NEAR, False),
        ([], NEAR, False),
        (CURVE, NEAR | {"weight_distance": 0.5}, False),
        ([CURVE[0], CURVE[1] | {"loss": float("nan")}], NEAR, False),
        (CURVE, NEAR | {"weight_distance": float("nan")}, False),
    ],
)
def test_only_the_same_curve_and_weights_are_equal(curve: Any, distance: Any, equal: bool) -> None:
    found = two_nodes.judge(CURVE, curve, distance, two_nodes.Tolerance())
    assert found["equal"] is equal


def test_weights_are_compared_over_both_models(base: str, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    model = gpu_training.build_pair(part(base))
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.01)
    model.save_pretrained(one)
    assert two_nodes.weight_distance(Path(base), one, one)["weight_distance"] == 0
    with torch.no_grad():
        for p in model.embedder.parameters():
            p.sub_(0.01)
    model.save_pretrained(two)
    found = two_nodes.weight_distance(Path(base), one, two)
    assert found["largest_weight_difference"] == pytest.approx(0.01, rel=1e-4)
    assert 0.5 < found["weight_distance"] < 1


def can_make_namespaces() -> bool:
    if os.geteuid() != 0 or shutil.which("ip") is None:
        return False
    made = subprocess.run(["ip", "netns", "add", "cosup-probe"], check=False, capture_output=True)
    if made.returncode:
        return False
    return not subprocess.run(["ip", "netns", "del", "cosup-probe"], check=False, capture_output=True).returncode


@pytest.mark.distributed
def test_two_namespaces_join_and_nothing_is_left() -> None:
    if not can_make_namespaces():
        pytest.skip("network namespaces need root and iproute2")
    command = [sys.executable, str(BENCHMARKS / "two_nodes.py"), "--selftest"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 + 2 = 3" in done.stdout
    left = subprocess.run(["ip", "netns", "list"], check=True, capture_output=True, text=True).stdout
    assert "cosup-" not in left


# -- benchmarks/retrieval.py -------------------------------------------------------------------------------------------


def real_vectors(count: int = 4000) -> np.ndarray:
    """Vectors of 24 dimensions that lie near a plane of 6."""
    random = np.random.default_rng(0)
    along = random.normal(size=(count, 6)) @ random.normal(size=(6, 24))
    return (along + 3 + 0.1 * random.normal(size=(count, 24))).astype(np.float32)


def test_drawn_vectors_have_the_mean_and_the_covariance_of_the_real_ones() -> None:
    real = real_vectors()
    world = retrieval_benchmark.World.fit(real, 6)
    drawn = world.mean + world.deviations(100_000, np.random.default_rng(1))
    np.testing.assert_allclose(drawn.mean(axis=0), real.mean(axis=0), atol=0.05)
    expected = np.cov(real.T)
    assert np.linalg.norm(np.cov(drawn.T) - expected) < 0.05 * np.linalg.norm(expected)
    assert world.noise == pytest.approx(0.1 * math.sqrt(18 / 24), rel=0.1)
    np.testing.assert_allclose(np.linalg.norm(world.draw(5, np.random.default_rng(2)), axis=1), 1, rtol=1e-5)


def retrieval_setting(folder: Path, **more: Any) -> Any:
    np.save(folder / "real.npy", real_vectors(400))
    return retrieval_benchmark.Setting(str(folder / "real.npy"), queries=40, factors=6, threads=1, **more)


def test_queries_are_held_out_and_near_real_vectors(tmp_path: Path) -> None:
    setting = retrieval_setting(tmp_path, moved=0.0)
    _, queries = retrieval_benchmark.split(setting)
    real = retrieval_benchmark.unit(real_vectors(400))
    assert np.sort((queries @ real.T).max(axis=1))[0] == pytest.approx(1.0, abs=1e-5)
    fitted = retrieval_benchmark.World.fit(
        retrieval_benchmark.unit(np.delete(real, (queries @ real.T).argmax(axis=1), axis=0)), 6
    )
    np.testing.assert_allclose(retrieval_benchmark.split(setting)[0].mean, fitted.mean, atol=1e-5)


@pytest.mark.parametrize("kind", [pytest.param("flat", marks=pytest.mark.slow), "ivf-sq"])
def test_a_size_is_built_and_searched_in_fresh_processes(tmp_path: Path, kind: str) -> None:
    found = retrieval_benchmark.measure(retrieval_setting(tmp_path, index_type=kind), 3000, tmp_path)
    assert (found["passages"], found["type"]) == (3000, kind)
    assert found["recall"] == 1.0 if kind == "flat" else found["recall"] > 0.9
    assert 0 < found["median_ms"] <= found["p95_ms"] < 1000
    assert 0.01 < found["resident_gb"] < 1.0  # neither torch nor the passages
    assert found["disk_gb"] > 3000 * 24 * 2 / 1e9
    assert [p.name for p in tmp_path.iterdir()] == ["real.npy"]


RETRIEVAL = {
    "runs": [
        {
            "passages": size, "type": "ivf-pq", "build_seconds": size / 1e4, "disk_gb": size * 2e-6, "recall": 0.97,
            "resident_gb": 0.1 + size * 1e-7, "median_ms": math.sqrt(size) / 100, "p95_ms": 20.0,
        }
        for size in (100_000, 300_000, 1_000_000)
    ],
}  # fmt: skip


def test_growth_is_extrapolated_from_the_sizes() -> None:
    found = retrieval_benchmark.growth(RETRIEVAL["runs"], 30_000_000)
    assert found["build_seconds"] == pytest.approx({"value": 3000.0, "exponent": 1.0})
    assert found["median_ms"] == pytest.approx({"value": math.sqrt(3e7) / 100, "exponent": 0.5})
    assert found["resident_gb"] == pytest.approx({"value": 3.1, "a_passage": 100.0})


# -- benchmarks/evaluation.py ------------------------------------------------------------------------------------------


def test_scoring_is_measured_on_a_small_scale() -> None:
    found = evaluation_benchmark.measure(200)
    assert found["seconds"] > 0
    assert 0.05 < found["peak_memory_gb"] < 3
    assert found["measures"] > 20
    record = {"settings": {"count": 200, "passages": 20_000}, **found, **origin()}
    assert "on 200 made-up short answers" in performance_page.page({"evaluation": record}, {})


# -- benchmarks/performance_page.py ------------------------------------------------------------------------------------


def origin() -> dict[str, Any]:
    versions = {"torch": "2.13.0", "transformers": "5.23.0"}
    return {"commit": "abc1234", "hardware": "a machine", "command": "python benchmarks/x.py", "versions": versions}


def test_the_page_has_a_section_for_each_record_and_no_other(base: str) -> None:
    own = asdict(training_benchmark.Setting("passages.jsonl", "questions.jsonl"))
    figures = {"tokens_per_second": 50_000.0, "peak_memory_gb": 70.0, "matmul_flops": 8e14, "flops": 4e14}
    sizes = {"generator": 10**9, "embedder": 10**9, "head": 10**8}
    mfu = gpu_training.summarise_mfu({"mfu": figures})
    mfu |= {"runs": {"mfu": {"matrix_parameters": sizes}}, "setting": {"mfu": asdict(part(base, matmul=8192))}}
    peaks = {"full": {"peak_memory_gb": 10.0}, "lora": {"peak_memory_gb": 4.0}}
    lora = gpu_training.summarise_lora_memory(peaks) | {"setting": {"full": asdict(part(base))}}
    nodes = two_nodes.judge(CURVE, CURVE, NEAR, two_nodes.Tolerance())
    nodes |= {"seconds": 30.0, "link_megabytes": 12.0, "steps": 20, "batch_size": 16, "options": {}}
    records = {
        "training": {"settings": own} | training_benchmark.summary(runs()) | origin(),
        "gpu_mfu": mfu | origin(),
        "lora_memory": lora | origin(),
        "two_nodes": nodes | origin(),
        "retrieval": RETRIEVAL
        | {"settings": asdict(retrieval_benchmark.Setting("real.npy")), "growth_to": 30_000_000}
        | {"growth": retrieval_benchmark.growth(RETRIEVAL["runs"])}
        | origin(),
    }
    text = performance_page.page(records, {})
    assert text.count("\n## ") == 5
    assert "| 1,000,000 | ivf-pq | 100 | 2.00 | 0.20 | 0.970 | 10.00 | 20.00 |" in text
    assert "at 30,000,000 passages: 50 minutes to build (n^1.00), 54.8 ms a search (n^0.50), 3.1 GB resident" in text
    assert "| cosup | 1100 | 25.0% | 3.00 | 4.900 | 5.50x | 0.30x |" in text
    assert "| 50000 | 400.0 | 800.0 | 50.0% | 70.0 |" in text
    assert "| 10.00 | 4.00 | 0.40 |" in text
    assert "20 steps: equal." in text
    assert text.count("Commit abc1234; a machine; torch 2.13.0, transformers 5.23.0.") == 5
    assert "negatives" not in text
    assert performance_page.page({"two_nodes": records["two_nodes"]}, {}).count("\n## ") == 1


def test_a_section_without_a_record_stays_on_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page, record = tmp_path / "page.md", tmp_path / "two_nodes.json"
    monkeypatch.setattr(sys, "argv", ["x", "--records", str(tmp_path), "--page", str(page)])
    nodes = two_nodes.judge(CURVE, CURVE, NEAR, two_nodes.Tolerance()) | origin()
    nodes |= {"seconds": 30.0, "link_megabytes": 12.0, "steps": 20, "batch_size": 16, "options": {}}
    record.write_text(json.dumps(nodes))
    performance_page.main()
    first = page.read_text()
    page.write_text(
        first.replace("<!-- two_nodes -->", "<!-- lora_memory -->\n## Two adapters\n\nkept\n\n<!-- two_nodes -->")
    )
    record.write_text(json.dumps(nodes | {"commit": "def5678"}))
    performance_page.main()
    again = page.read_text()
    assert again.count("\n## ") == 2
    assert "kept" in again
    assert "def5678" in again
    assert "abc1234" not in again
    performance_page.main()
    assert page.read_text() == again


def test_the_page_is_not_written_without_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["x", "--records", str(tmp_path), "--page", str(page)])
    with pytest.raises(SystemExit, match=r"training\.json"):
        performance_page.main()
    assert not page.exists()


# -- serving -----------------------------------------------------------------------------------------------------------


@pytest.mark.bench
def test_many_clients_get_far_more_answers_than_one(tmp_path: Path) -> None:
    """A server under load with a pair that knows its questions: no error but 429, and a batch is worth its name.

    The figures of the documents are of the demo's pair on an idle machine (8x at 32 clients); this holds half of that.
    """
    from tests.generation.conftest import train

    train("llama", tmp_path)
    write_jsonl(tmp_path / "questions.jsonl", QUESTIONS)
    command = [sys.executable, str(BENCHMARKS / "serving.py"), "--model", "model", "--index", "index"]
    more = ["--questions", "questions.jsonl", "--clients", "1", "32", "64", "--seconds", "5", "--json", "out.json"]
    subprocess.run([*command, *more], cwd=tmp_path, check=True, capture_output=True, timeout=300)
    record = json.loads((tmp_path / "out.json").read_text())
    alone, many, most = record["loads"]
    assert set(alone["statuses"]) == {"200"}
    assert set(many["statuses"]) | set(most["statuses"]) <= {"200", "429"}
    assert many["answers_per_second"] > 4 * alone["answers_per_second"]
    assert most["p95_seconds"] < 10
    page = performance_page.page({"serving": record}, {})
    assert f"| 32 | {many['answers']:,} |" in page
    assert serving_benchmark.table(record)[-1].endswith("| 0 | 0 |")
